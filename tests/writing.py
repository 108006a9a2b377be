# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An invocation, or several, of every command that writes; each of them does write.

A line is `since: setup ; setup => command`. `k`, `k2`, `k3` become keys of the line's own. `command && other`: the first waits
for what the second brings. `since` is a Redis version, which every Valkey has as well, or one flavour's, as in `redis-8.0`;
several may be named. `unfed:` marks what changes the source and is told to no replica: a consumer that reads its own history
again moves the time and the number of its deliveries.
Words in capitals that stand for something: AT and AT_MS (a time to come), LIST (the payload of a list), LIBRARY and lib (a
function that writes two keys), LIBRARIES (payload of it), HOST and PORT (of another server), EFFECTS (a script), ANOTHER (a mirrored database),
"" (nothing).
"""

from __future__ import annotations

# Written together, as one table: what a command does to a key that has an expiry, or is not there, is asked of most.
_TEXT = """
APPEND
  SET k a => APPEND k b
  SET k a EX 1000 => APPEND k b
  => APPEND k b
BITFIELD
  => BITFIELD k SET u8 0 200 INCRBY u5 100 1
  SET k abc => BITFIELD k OVERFLOW SAT INCRBY i8 0 300 OVERFLOW FAIL INCRBY u2 100 9 GET u4 0
BITOP
  SET k a ; SET k2 bc => BITOP AND k3 k k2
  SET k a ; SET k2 bc => BITOP OR k k k2
  SET k a ; SET k2 bc => BITOP XOR k3 k k2
  SET k a EX 1000 ; SET k3 x EX 1000 => BITOP NOT k3 k
  SET k3 x => BITOP AND k3 k k2
BLMOVE
  RPUSH k a b => BLMOVE k k2 LEFT RIGHT 0
  => BLMOVE k k2 left right 0 && RPUSH k a b
BLMPOP
  RPUSH k2 a b c => BLMPOP 0 2 k k2 LEFT COUNT 2
  => BLMPOP 0 2 k k2 RIGHT COUNT 2 && RPUSH k2 a b c
BLPOP
  RPUSH k2 a b => BLPOP k k2 0
  => BLPOP k k2 0 && RPUSH k2 a b
  => BLPOP k 0 && RPUSH k a
  RPUSH k2 a => BLPOP k 0 && RENAME k2 k
BRPOP
  RPUSH k2 a b => BRPOP k k2 0
  => BRPOP k k2 0 && RPUSH k2 a b
BRPOPLPUSH
  RPUSH k a b => BRPOPLPUSH k k2 0
  => BRPOPLPUSH k k2 0 && RPUSH k a b
BZMPOP
  ZADD k2 1 a 2 b 3 c => BZMPOP 0 2 k k2 MIN COUNT 2
  => BZMPOP 0 2 k k2 MAX COUNT 2 && ZADD k2 1 a 2 b 3 c
BZPOPMAX
  ZADD k 1 a 2 b => BZPOPMAX k 0
  => BZPOPMAX k k2 0 && ZADD k2 1 a 2 b
BZPOPMIN
  ZADD k 1 a 2 b => BZPOPMIN k 0
  => BZPOPMIN k k2 0 && ZADD k2 1 a 2 b
COPY
  SET k a EX 1000 => COPY k k2
  RPUSH k a ; SET k2 x => COPY k k2 REPLACE
  SADD k a => COPY k k2 DB 3
  SADD k a => COPY k k2 db ANOTHER
  HSET k f v => COPY k k2 DB ANOTHER REPLACE
  redis-8.0 valkey-9.0: HSET k f v ; HEXPIRE k 1000 FIELDS 1 f => COPY k k2
DECR
  => DECR k
  SET k 5 EX 1000 => DECR k
DECRBY
  SET k 5 => DECRBY k 7
DEL
  SET k a ; RPUSH k2 b => DEL k k2 k3
DELIFEQ
  SET k a => DELIFEQ k a
EXPIRE
  SET k a => EXPIRE k 1000
  SET k a => EXPIRE k -1
  7.0: SET k a => EXPIRE k 1000 NX
  7.0: SET k a EX 100 => EXPIRE k 1000 XX
  7.0: SET k a EX 100 => EXPIRE k 1000 GT
  7.0: SET k a => EXPIRE k 1000 LT
EXPIREAT
  SET k a => EXPIREAT k AT
  SET k a => EXPIREAT k 1
  7.0: SET k a => EXPIREAT k AT nx
  7.0: SET k a EX 100 => EXPIREAT k AT GT
FUNCTION|DELETE
  FUNCTION LOAD LIBRARY => FUNCTION DELETE lib
FUNCTION|LOAD
  => FUNCTION LOAD LIBRARY
  FUNCTION LOAD LIBRARY => FUNCTION LOAD REPLACE LIBRARY
FUNCTION|RESTORE
  => FUNCTION RESTORE LIBRARIES REPLACE
GEOADD
  => GEOADD k 13.36 38.11 Palermo 15.08 37.50 Catania
  7.0: GEOADD k 13.36 38.11 Palermo => GEOADD k XX CH 13.4 38.2 Palermo
GEORADIUS
  GEOADD k 13.36 38.11 Palermo 15.08 37.50 Catania => GEORADIUS k 15 37 200 km STORE k2
  GEOADD k 13.36 38.11 Palermo 15.08 37.50 Catania => GEORADIUS k 15 37 200 km ASC COUNT 1 STOREDIST k2
  GEOADD k 13.36 38.11 Palermo ; SET k2 x => GEORADIUS k 80 37 1 km STORE k2
GEORADIUSBYMEMBER
  GEOADD k 13.36 38.11 Palermo 15.08 37.50 Catania => GEORADIUSBYMEMBER k Palermo 200 km STORE k2
  GEOADD k 13.36 38.11 Palermo 15.08 37.50 Catania => GEORADIUSBYMEMBER k Palermo 200 km STOREDIST k
GEOSEARCHSTORE
  GEOADD k 13.36 38.11 Palermo 15.08 37.50 Catania => GEOSEARCHSTORE k2 k FROMMEMBER Palermo BYRADIUS 300 km
  GEOADD k 13.36 38.11 Palermo 15.08 37.50 Catania => GEOSEARCHSTORE k2 k FROMLONLAT 15 37 BYBOX 400 400 km ASC COUNT 1 ANY STOREDIST
GETDEL
  SET k a => GETDEL k
GETEX
  SET k a => GETEX k EX 1000
  SET k a => GETEX k PX 1000000
  SET k a => GETEX k EXAT AT
  SET k a => GETEX k pxat AT_MS
  SET k a => GETEX k PXAT 1
  SET k a EX 1000 => GETEX k PERSIST
GETSET
  SET k a EX 1000 => GETSET k b
  => GETSET k b
HDEL
  HSET k f v g w => HDEL k f x
  HSET k f v => HDEL k f
HEXPIRE
  HSET k f v g w => HEXPIRE k 1000 FIELDS 2 f x
  HSET k f v g w ; HEXPIRE k 100 FIELDS 1 f => HEXPIRE k 1000 NX FIELDS 2 f g
  HSET k f v g w ; HEXPIRE k 100 FIELDS 1 f => HEXPIRE k 1000 XX FIELDS 2 f g
  HSET k f v g w ; HEXPIRE k 100 FIELDS 1 f ; HEXPIRE k 2000 FIELDS 1 g => HEXPIRE k 1000 GT FIELDS 2 f g
  HSET k f v g w ; HEXPIRE k 100 FIELDS 1 f ; HEXPIRE k 2000 FIELDS 1 g => HEXPIRE k 1000 LT FIELDS 2 f g
  HSET k f v g w => HEXPIRE k 0 FIELDS 1 f
HEXPIREAT
  HSET k f v g w => HEXPIREAT k AT FIELDS 1 f
  HSET k f v g w ; HEXPIRE k 100 FIELDS 1 f => HEXPIREAT k AT GT FIELDS 2 f g
  HSET k f v => HEXPIREAT k 1 FIELDS 1 f
HGETDEL
  HSET k f v g w => HGETDEL k FIELDS 2 f x
  HSET k f v => HGETDEL k FIELDS 1 f
HGETEX
  HSET k f v g w => HGETEX k EX 1000 FIELDS 1 f
  HSET k f v g w => HGETEX k PX 1000000 FIELDS 2 f g
  HSET k f v g w => HGETEX k EXAT AT FIELDS 1 f
  HSET k f v g w => HGETEX k PXAT AT_MS FIELDS 1 f
  HSET k f v g w ; HEXPIRE k 100 FIELDS 2 f g => HGETEX k PERSIST FIELDS 1 f
HINCRBY
  HSET k f 1 => HINCRBY k f 5
  redis-8.0 valkey-9.0: HSET k f 1 ; HEXPIRE k 1000 FIELDS 1 f => HINCRBY k f 5
HINCRBYFLOAT
  HSET k f 1 => HINCRBYFLOAT k f 0.1
  redis-8.0 valkey-9.0: HSET k f 1 ; HEXPIRE k 1000 FIELDS 1 f => HINCRBYFLOAT k f 0.1
HMSET
  HSET k f 1 => HMSET k f 2 g 3
  redis-8.0 valkey-9.0: HSET k f 1 g 2 ; HEXPIRE k 1000 FIELDS 2 f g => HMSET k f 2
HPERSIST
  HSET k f 1 g 2 ; HEXPIRE k 1000 FIELDS 2 f g => HPERSIST k FIELDS 2 f x
HPEXPIRE
  HSET k f v g w => HPEXPIRE k 1000000 FIELDS 1 f
  HSET k f v g w ; HEXPIRE k 100 FIELDS 1 f => HPEXPIRE k 1000000 gt FIELDS 2 f g
HPEXPIREAT
  HSET k f v g w => HPEXPIREAT k AT_MS FIELDS 1 f
  HSET k f v g w ; HEXPIRE k 100 FIELDS 1 f => HPEXPIREAT k AT_MS NX FIELDS 2 f g
  HSET k f v g w => HPEXPIREAT k 1 FIELDS 1 f
HSET
  => HSET k f v g w
  redis-8.0 valkey-9.0: HSET k f 1 g 2 ; HEXPIRE k 1000 FIELDS 2 f g => HSET k f 2
HSETEX
  => HSETEX k EX 1000 FIELDS 2 f v g w
  HSET k f 1 => HSETEX k PX 1000000 FIELDS 1 f v
  HSET k f 1 => HSETEX k FXX EXAT AT FIELDS 1 f v
  HSET k f 1 => HSETEX k FNX PXAT AT_MS FIELDS 1 g v
  HSET k f 1 ; HEXPIRE k 1000 FIELDS 1 f => HSETEX k KEEPTTL FIELDS 2 f 2 g 3
  HSET k f 1 ; HEXPIRE k 1000 FIELDS 1 f => HSETEX k FIELDS 1 f 2
  HSET k f 1 g 2 => HSETEX k PXAT 1 FIELDS 1 f v
HSETNX
  HSET k f 1 => HSETNX k g 2
INCR
  => INCR k
  SET k 5 EX 1000 => INCR k
INCRBY
  SET k 5 => INCRBY k 7
INCRBYFLOAT
  SET k 5 EX 1000 => INCRBYFLOAT k 0.1
  => INCRBYFLOAT k 1e5
LINSERT
  RPUSH k a b => LINSERT k BEFORE b x
LMOVE
  RPUSH k a b => LMOVE k k2 LEFT RIGHT
  RPUSH k a b => LMOVE k k right left
LMPOP
  RPUSH k2 a b c => LMPOP 2 k k2 LEFT COUNT 2
LPOP
  RPUSH k a b c => LPOP k
  7.0: RPUSH k a b c => LPOP k 3
LPUSH
  => LPUSH k a b
LPUSHX
  RPUSH k a => LPUSHX k b c
LREM
  RPUSH k a b a c a => LREM k -2 a
LSET
  RPUSH k a b => LSET k -1 c
LTRIM
  RPUSH k a b c => LTRIM k 1 -1
  RPUSH k a b c => LTRIM k 5 1
MIGRATE
  RPUSH k a => MIGRATE HOST PORT k 0 5000
  RPUSH k a ; SET k2 b EX 1000 => MIGRATE HOST PORT "" 3 5000 REPLACE KEYS k k2 k3
MOVE
  SET k a EX 1000 => MOVE k 3
  SET k a EX 1000 => MOVE k ANOTHER
MSET
  SET k a EX 1000 => MSET k b k2 c
MSETEX
  => MSETEX 2 k a k2 b EX 1000
  SET k a => MSETEX 1 k b XX PX 1000000
  => MSETEX 2 k a k2 b NX EXAT AT
  => MSETEX 1 k a PXAT AT_MS
  SET k a EX 1000 => MSETEX 2 k b k2 c KEEPTTL
  => MSETEX 2 k a k2 b
MSETNX
  => MSETNX k a k2 b
PERSIST
  SET k a EX 1000 => PERSIST k
PEXPIRE
  SET k a => PEXPIRE k 1000000
  7.0: SET k a EX 100 => PEXPIRE k 1000000 GT
PEXPIREAT
  SET k a => PEXPIREAT k AT_MS
  SET k a => PEXPIREAT k 1
  7.0: SET k a EX 100 => PEXPIREAT k AT_MS XX
PFADD
  => PFADD k a b c
  PFADD k a => PFADD k b
  => PFADD k
PFCOUNT
  PFADD k a b c => PFCOUNT k
PFDEBUG
  PFADD k a b c => PFDEBUG TODENSE k
  PFADD k a b c => PFDEBUG GETREG k
PFMERGE
  PFADD k a b ; PFADD k2 c => PFMERGE k3 k k2
  PFADD k a b ; PFADD k2 c => PFMERGE k k2
  => PFMERGE k
PSETEX
  => PSETEX k 1000000 a
RENAME
  SET k a EX 1000 ; RPUSH k2 b => RENAME k k2
  redis-8.0 valkey-9.0: HSET k f 1 ; HEXPIRE k 1000 FIELDS 1 f => RENAME k k2
RENAMENX
  SET k a => RENAMENX k k2
RESTORE
  => RESTORE k 0 LIST
  => RESTORE k 1000000 LIST
  SET k a => RESTORE k AT_MS LIST REPLACE ABSTTL
  SET k a => RESTORE k 1 LIST REPLACE absttl
  => RESTORE k 0 LIST IDLETIME 1000
  => RESTORE k 0 LIST FREQ 100
RESTORE-ASKING
  => RESTORE-ASKING k 0 LIST
  => RESTORE-ASKING k 1000000 LIST
RPOP
  RPUSH k a b c => RPOP k
  7.0: RPUSH k a b c => RPOP k 2
RPOPLPUSH
  RPUSH k a b => RPOPLPUSH k k2
RPUSH
  RPUSH k a => RPUSH k b c
RPUSHX
  RPUSH k a => RPUSHX k b
SADD
  => SADD k a b
SDIFFSTORE
  SADD k a b ; SADD k2 b => SDIFFSTORE k3 k k2
  SADD k a b ; SET k3 x => SDIFFSTORE k3 k k
SET
  SET k a EX 1000 => SET k b
  => SET k a EX 1000
  => SET k a PX 1000000
  SET k a EX 1000 => SET k b KEEPTTL
  => SET k a NX
  => set k a nx ex 1000
  SET k a => SET k b XX
  SET k a => SET k b XX PX 1000000
  7.0: => SET k a EXAT AT
  7.0: => SET k a PXAT AT_MS
  7.0: SET k a => SET k b PXAT 1
  7.0: SET k a => SET k b GET
  7.0: => SET k a NX GET
  7.0: SET k a EX 1000 => SET k b XX GET KEEPTTL
  valkey-8.1 redis-8.4: SET k a => SET k b IFEQ a
  valkey-8.1 redis-8.4: SET k a => SET k b IFEQ a GET EX 1000
  valkey-8.1 redis-8.4: SET k a EX 1000 => SET k b KEEPTTL IFEQ a
SETBIT
  => SETBIT k 100 1
SETEX
  SET k a => SETEX k 1000 b
SETNX
  => SETNX k a
SETRANGE
  SET k a EX 1000 => SETRANGE k 3 b
SINTERSTORE
  SADD k a b ; SADD k2 b => SINTERSTORE k3 k k2
SMOVE
  SADD k a b => SMOVE k k2 a
SORT
  RPUSH k 3 1 2 => SORT k STORE k2
  RPUSH k 3 1 2 => SORT k BY k2_* GET k3_* GET # DESC store k
  SET k2 x => SORT k ALPHA STORE k2
SPOP
  SADD k a b c => SPOP k
  SADD k a b c d e f => SPOP k 4
  SADD k a b c => SPOP k 9
SREM
  SADD k a b => SREM k a x
SUNIONSTORE
  SADD k a b ; SADD k2 c => SUNIONSTORE k3 k k2
  SADD k a b ; SADD k2 c => SUNIONSTORE k k k2
UNLINK
  SET k a ; RPUSH k2 b => UNLINK k k2 k3
VADD
  => VADD k VALUES 3 0.1 1.2 0.5 one
  VADD k VALUES 3 0.1 1.2 0.5 one => VADD k VALUES 3 0.3 1.2 0.5 two SETATTR {"a":1}
  => VADD k REDUCE 2 VALUES 3 0.1 1.2 0.5 one CAS NOQUANT
VREM
  VADD k VALUES 2 0.1 1.2 one ; VADD k VALUES 2 0.5 1.2 two => VREM k one
VSETATTR
  VADD k VALUES 2 0.1 1.2 one => VSETATTR k one {"a":1}
XACK
  XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > => XACK k g 1-1
XADD
  => XADD k * f v
  => XADD k 5-5 f v
  7.0: XADD k 5-5 f v => XADD k 5-* f v
  7.0: XADD k 1-1 f v => XADD k NOMKSTREAM * f v
  XADD k 1-1 f v ; XADD k 2-1 f v => XADD k MAXLEN 2 3-1 f v
  XADD k 1-1 f v ; XADD k 2-1 f v => XADD k MAXLEN ~ 1 3-1 f v
  7.0: XADD k 1-1 f v ; XADD k 2-1 f v => XADD k MINID = 2-1 3-1 f v
  7.0: XADD k 1-1 f v ; XADD k 2-1 f v => XADD k MINID ~ 2-1 LIMIT 1 3-1 f v
XAUTOCLAIM
  XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > => XAUTOCLAIM k g d 0 0
  XADD k 1-1 f v ; XADD k 2-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > => XAUTOCLAIM k g d 0 0 COUNT 1 JUSTID
  XADD k 1-1 f v ; XADD k 2-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > ; XDEL k 1-1 => XAUTOCLAIM k g d 0 0
XCLAIM
  XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > => XCLAIM k g d 0 1-1
  XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > => XCLAIM k g d 0 1-1 IDLE 5000 RETRYCOUNT 7 JUSTID
  XADD k 1-1 f v ; XGROUP CREATE k g 0 => XCLAIM k g d 0 1-1 TIME 1700000000000 FORCE
  XADD k 1-1 f v ; XADD k 2-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c COUNT 1 STREAMS k > => XCLAIM k g d 0 1-1 LASTID 2-1
  XADD k 1-1 f v ; XADD k 2-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > ; XDEL k 1-1 => XCLAIM k g d 0 1-1 2-1
XDEL
  XADD k 1-1 f v ; XADD k 2-1 f v => XDEL k 2-1
XGROUP|CREATE
  XADD k 1-1 f v => XGROUP CREATE k g $
  => XGROUP CREATE k g 0 MKSTREAM
  7.0: XADD k 1-1 f v => XGROUP CREATE k g 1-1 ENTRIESREAD 1
XGROUP|CREATECONSUMER
  7.0: XGROUP CREATE k g 0 MKSTREAM => XGROUP CREATECONSUMER k g c
XGROUP|DELCONSUMER
  XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > => XGROUP DELCONSUMER k g c
XGROUP|DESTROY
  XGROUP CREATE k g 0 MKSTREAM => XGROUP DESTROY k g
XGROUP|SETID
  XADD k 1-1 f v ; XGROUP CREATE k g 0 => XGROUP SETID k g $
  7.0: XADD k 1-1 f v ; XGROUP CREATE k g 0 => xgroup setid k g 1-1 entriesread 1
XREADGROUP
  XADD k 1-1 f v ; XADD k 2-1 f v ; XGROUP CREATE k g 0 => XREADGROUP GROUP g c COUNT 1 STREAMS k >
  XADD k 1-1 f v ; XGROUP CREATE k g 0 => XREADGROUP GROUP g c NOACK STREAMS k >
  XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XADD k2 1-1 f v ; XGROUP CREATE k2 g 0 => XREADGROUP GROUP g c STREAMS k k2 > >
  XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > ; XDEL k 1-1 ; XADD k 2-1 f v => XREADGROUP GROUP g d STREAMS k >
  XGROUP CREATE k g 0 MKSTREAM => XREADGROUP GROUP g c BLOCK 0 STREAMS k > && XADD k 1-1 f v
  unfed: XADD k 1-1 f v ; XGROUP CREATE k g $ => XREADGROUP GROUP g c STREAMS k >
  unfed: XADD k 1-1 f v ; XGROUP CREATE k g 0 ; XREADGROUP GROUP g c STREAMS k > => XREADGROUP GROUP g c STREAMS k 0
XSETID
  XADD k 1-1 f v => XSETID k 9-9
  7.0: XADD k 1-1 f v => XSETID k 9-9 ENTRIESADDED 5 MAXDELETEDID 3-3
XTRIM
  XADD k 1-1 f v ; XADD k 2-1 f v => XTRIM k MAXLEN 1
  XADD k 1-1 f v ; XADD k 2-1 f v => XTRIM k MAXLEN = 0
  7.0: XADD k 1-1 f v ; XADD k 2-1 f v => XTRIM k MINID 2
ZADD
  => ZADD k 1 a 2.5 b -inf c
  ZADD k 1 a => ZADD k XX CH 3 a
  ZADD k 1 a => ZADD k NX 3 a 4 b
  ZADD k 1 a => ZADD k INCR 0.1 a
  7.0: ZADD k 1 a 9 b => ZADD k GT CH 3 a 4 b
ZDIFFSTORE
  ZADD k 1 a 2 b ; ZADD k2 1 a => ZDIFFSTORE k3 2 k k2
ZINCRBY
  ZADD k 1 a => ZINCRBY k 0.1 a
ZINTERSTORE
  ZADD k 1 a 2 b ; ZADD k2 1 a => ZINTERSTORE k3 2 k k2 WEIGHTS 2 3 AGGREGATE MAX
  ZADD k 1 a ; SET k3 x => ZINTERSTORE k3 2 k k2
ZMPOP
  ZADD k2 1 a 2 b 3 c => ZMPOP 2 k k2 MAX COUNT 2
ZPOPMAX
  ZADD k 1 a 2 b 3 c => ZPOPMAX k 2
ZPOPMIN
  ZADD k 1 a 2 b 3 c => ZPOPMIN k
ZRANGESTORE
  ZADD k 1 a 2 b 3 c => ZRANGESTORE k2 k 0 1
  ZADD k 1 a 2 b 3 c => ZRANGESTORE k k (1 +inf BYSCORE LIMIT 0 1
ZREM
  ZADD k 1 a 2 b => ZREM k a x
ZREMRANGEBYLEX
  ZADD k 0 a 0 b 0 c => ZREMRANGEBYLEX k [a (c
ZREMRANGEBYRANK
  ZADD k 1 a 2 b 3 c => ZREMRANGEBYRANK k 0 1
ZREMRANGEBYSCORE
  ZADD k 1 a 2 b 3 c => ZREMRANGEBYSCORE k -inf (3
ZUNIONSTORE
  ZADD k 1 a 2 b ; SADD k2 a => ZUNIONSTORE k3 2 k k2 AGGREGATE MIN
  ZADD k 1 a 2 b => ZUNIONSTORE k 2 k k2

EVAL
  SET k 1 => EVAL EFFECTS 2 k k2
  unfed: => SCRIPT LOAD EFFECTS
FCALL
  FUNCTION LOAD LIBRARY => FCALL lib 2 k k2 x
PUBLISH
  => PUBLISH k x
SPUBLISH
  => SPUBLISH k x
"""

#: These touch whole databases, or every library, and are driven one by one. `5` is a mirrored database, so is 16, 3 is none.
WHOLE = {
    "FLUSHDB": ("FLUSHDB", "flushdb ASYNC", "FLUSHDB SYNC"),
    "FLUSHALL": ("FLUSHALL", "FLUSHALL ASYNC"),
    "SWAPDB": ("SWAPDB 5 16", "SWAPDB 3 5", "SWAPDB 16 3"),
    "FUNCTION|FLUSH": ("FUNCTION FLUSH",),
}

#: Commands that write, and are not driven.
EXCEPTIONS = {
    "CLUSTER|FLUSHSLOT": "works in a cluster only, which no split has as its source",
}


def examples() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in _TEXT.splitlines():
        if line.startswith("  "):
            found[name].append(line.strip())
        elif line:
            name = line
            found[name] = []
    return found


def since(line: str) -> list[str]:
    """The releases from which on there is this example; none where it always was there."""
    return [word for word in line.rpartition(": ")[0].split() if word != "unfed"]
