-- What a node asks of the rings of this primary in one turn, in order. ARGV:
--   node, number (0: there is no publish in it), packed {answered, law, asked}
--     answered: numbers of calls whose answers came
--     law: {epoch to draw, rate, burst, memory_bytes, dedup_ms, dedup_most}
--     asked, each {what, …}; `where` is 'lane:address':
--       {0, bucket, where, id or '', exempt, ttl_ms, entries, bytes, age_ms, message}   publish
--       {1, bucket, where}                                                              watch
--       {2, bucket, where}                                                              unwatch
--       {3, lane, from, most}                                                           sweep
-- Answers {epoch, bytes, rings, evicted, answer to each…}: to a publish its seq, below 0 for a repeat, 0 over
-- the rate; to a watch {first, head, count}; to a sweep where to go on, -1: another node sweeps.
--
-- All rings:   ig:rings                  packed {epoch, generation, seq, dropped, bytes, rings, evicted, ids, turned_ms}
--              ig:rings:0, ig:rings:1    by lane 'bucket:where', scored by the seq of its newest entry
--              ig:rings:ids, :ids:old    what was taken: id → packed seq, ms; two generations bound their number
-- Of each:     ig:{bucket}:ring:where    packed {epoch, floor, head, count, length, bytes, tokens, refilled_ms,
--                                        published_ms, age_ms}; count: of all entries that it ever had
--              ig:{bucket}:entries:where LIST of seq, ms, expires_ms (8 bytes each), message
--              ig:{bucket}:watch:where   node → where a ring begins that is made while it watches
local ENTRY_BYTES, RING_BYTES = 64, 600
local HEAD = 24
-- Entries that one sweep takes away, about: others wait meanwhile.
local SWEPT = 2000
-- Nodes ask again for what they watch within half of this, so that what dead ones watched goes.
local WATCH_MS = 172800000

local node, number = ARGV[2], ARGV[3]
local answered, law, asked = unpack(cmsgpack.unpack(ARGV[4]))
local draw, rate, burst, memory_bytes, dedup_ms, dedup_most = unpack(law)

local epoch, generation, seq, dropped, bytes, count, evicted, ids, turned

local function store()
  redis.call('SET', 'ig:rings',
    cmsgpack.pack({epoch, generation, seq, dropped, bytes, count, evicted, ids, turned}))
end

local function begin()
  local stored = redis.call('GET', 'ig:rings')
  if stored then
    epoch, generation, seq, dropped, bytes, count, evicted, ids, turned = unpack(cmsgpack.unpack(stored))
  else
    epoch, generation, seq, dropped, bytes, count, evicted, ids, turned = 0, 0, 0, 0, 0, 0, 0, 0, now
  end
  if epoch == 0 or generation ~= primary_generation then
    -- The newest entries may be lost: what is left of the rings counts no longer.
    epoch, generation, dropped, ids = draw, primary_generation, 0, 0
    store()
    redis.call('UNLINK', 'ig:rings:ids', 'ig:rings:ids:old')
  end
end

local rings, changed, hinted, named = {}, {}, {}, {}

local function names(id)
  local found = named[id]
  if not found then
    local bucket, where = id:match('^(%d+):(.*)$')
    local base = 'ig:{' .. bucket .. '}:'
    found = {base .. 'ring:' .. where, base .. 'entries:' .. where, base .. 'watch:' .. where, where}
    named[id] = found
  end
  return found[1], found[2], found[3], found[4]
end

-- The ring, or nil if there is none; as it is now, also if this call changed it.
local function find(id)
  local ring = rings[id]
  if ring ~= nil then
    return ring or nil
  end
  local name = names(id)
  local stored = redis.call('GET', name)
  if not stored then
    rings[id] = false
    return nil
  end
  ring = {id = id}
  ring.epoch, ring.floor, ring.head, ring.count, ring.length, ring.bytes, ring.tokens, ring.refilled,
    ring.published, ring.age = unpack(cmsgpack.unpack(stored))
  rings[id] = ring
  return ring
end

local function save(ring)
  redis.call('SET', (names(ring.id)), cmsgpack.pack({ring.epoch, ring.floor, ring.head, ring.count, ring.length,
    ring.bytes, ring.tokens, ring.refilled, ring.published, ring.age}))
end

local function watchers(id)
  local _, _, name = names(id)
  return redis.call('HGETALL', name)
end

local function drop(ring)
  local name, entries, watched, where = names(ring.id)
  redis.call('UNLINK', name, entries)
  redis.call('ZREM', 'ig:rings:' .. where:sub(1, 1), ring.id)
  bytes = bytes - ring.bytes - RING_BYTES
  count = count - 1
  rings[ring.id] = false
  if ring.epoch == epoch then
    if ring.head > dropped then dropped = ring.head end
    -- Who watches has had what was there; another ring that goes is nothing to it.
    local nodes = redis.call('HKEYS', watched)
    for _, one in ipairs(nodes) do
      redis.call('HSET', watched, one, ring.head)
    end
  end
end

-- Take the oldest entries away.
local function shift(ring, entries, most)
  local gone = redis.call('LPOP', entries, most)
  local size = 0
  for _, entry in ipairs(gone) do
    size = size + #entry - HEAD + ENTRY_BYTES
  end
  ring.floor = struct.unpack('>I8', gone[#gone])
  ring.length, ring.bytes, bytes = ring.length - #gone, ring.bytes - size, bytes - size
end

-- What a publish adds stands in `fresh` until all are there.
local function add(ring)
  local fresh = ring.fresh
  local _, entries, _, where = names(ring.id)
  redis.call('RPUSH', entries, unpack(fresh))
  redis.call('ZADD', 'ig:rings:' .. where:sub(1, 1), ring.head, ring.id)
  if ring.length > ring.most then
    shift(ring, entries, ring.length - ring.most)
  end
  while ring.bytes > ring.most_bytes and ring.length > 1 do
    shift(ring, entries, 1)
  end
  save(ring)
  local nodes = ring.nodes or watchers(ring.id)
  if #nodes > 0 then
    local hint = cmsgpack.pack({'r', where, epoch, ring.told, ring.head, ring.count - #fresh, fresh})
    for n = 1, #nodes, 2 do
      tell_packed(nodes[n], hint)
    end
    hinted[#hinted + 1] = ring.id
  end
end

local function change(ring)
  if not ring.is_changed then
    ring.is_changed = true
    changed[#changed + 1] = ring
  end
end

local function make(id)
  local ring = {id = id, epoch = epoch, floor = dropped, count = 0, length = 0, bytes = 0, tokens = burst,
    refilled = now, published = 0, age = 0}
  local nodes = watchers(id)
  for n = 2, #nodes, 2 do
    ring.floor = math.min(ring.floor, tonumber(nodes[n]))
  end
  ring.nodes, ring.head = nodes, ring.floor
  rings[id] = ring
  bytes, count = bytes + RING_BYTES, count + 1
  return ring
end

local function publish(bucket, where, name, exempt, ttl_ms, most, most_bytes, age_ms, message)
  if name ~= '' then
    local taken = redis.call('HGET', 'ig:rings:ids', name) or redis.call('HGET', 'ig:rings:ids:old', name)
    if taken then
      local was, at = struct.unpack('>I8I8', taken)
      if now - at <= dedup_ms then
        return -was
      end
    end
  end
  local id = bucket .. ':' .. where
  local ring = find(id)
  if ring and ring.epoch ~= epoch then
    drop(ring)
    ring = nil
  end
  ring = ring or make(id)
  if exempt == 0 and rate > 0 then
    local tokens = math.min(burst, ring.tokens + math.max(0, now - ring.refilled) * rate / 1000)
    ring.refilled = now
    if tokens < 0.999999 then
      ring.tokens = tokens
      change(ring)
      return 0
    end
    ring.tokens = tokens - 1
  end
  seq = seq + 1
  if name ~= '' then
    redis.call('HSET', 'ig:rings:ids', name, struct.pack('>I8I8', seq, now))
    ids = ids + 1
  end
  if not ring.fresh then
    ring.fresh, ring.told = {}, ring.head
    change(ring)
  end
  ring.fresh[#ring.fresh + 1] = struct.pack('>I8I8I8', seq, now, ttl_ms > 0 and now + ttl_ms or 0) .. message
  local size = #message + ENTRY_BYTES
  ring.head, ring.count, ring.length, ring.bytes = seq, ring.count + 1, ring.length + 1, ring.bytes + size
  ring.most, ring.most_bytes, ring.age, ring.published = most, most_bytes, age_ms, now
  bytes = bytes + size
  return seq
end

local function watch(bucket, where)
  local id = bucket .. ':' .. where
  local _, _, name = names(id)
  redis.call('HSETNX', name, node, dropped)
  redis.call('PEXPIRE', name, WATCH_MS)
  local ring = find(id)
  if not ring or ring.epoch ~= epoch then
    return {seq + 1, seq, 0}
  end
  return {ring.floor + 1, ring.head, ring.count}
end

-- Those that were not published to for longest lose their oldest entries; all of lane 0 before lane 1.
local function evict()
  local target = memory_bytes - math.floor(memory_bytes / 1024)
  for lane = 0, 1 do
    while bytes > target do
      local id = redis.call('ZRANGE', 'ig:rings:' .. lane, 0, 0)[1]
      if not id then
        break
      end
      local ring = find(id)
      local length = ring and ring.length or 0
      if not ring then
        redis.call('ZREM', 'ig:rings:' .. lane, id)
      elseif ring.epoch == epoch and length > 1 and bytes - target < ring.bytes then
        local _, entries = names(id)
        while bytes > target and ring.length > 1 do
          shift(ring, entries, 1)
        end
        evicted = evicted + length - ring.length
        save(ring)
      else
        drop(ring)
        evicted = evicted + length
      end
    end
  end
end

-- By age: what is too old goes, and empty rings that nobody publishes to.
local function sweep(lane, from, most)
  if most == 0 then
    return 0
  end
  local sweeper = redis.call('GET', 'ig:rings:sweeper')
  if sweeper and sweeper ~= node then
    return -1
  end
  redis.call('SET', 'ig:rings:sweeper', node, 'PX', 3000)
  local name = 'ig:rings:' .. lane
  local shifted = 0
  local found = redis.call('ZRANGEBYSCORE', name, string.format('(%.0f', from), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for n = 1, #found, 2 do
    local ring = find(found[n])
    if not ring then
      redis.call('ZREM', name, found[n])
    elseif ring.epoch ~= epoch then
      drop(ring)
    else
      local _, entries = names(ring.id)
      local length = ring.length
      while ring.length > 0 do
        local _, at = struct.unpack('>I8I8', redis.call('LINDEX', entries, 0))
        if at >= now - ring.age then
          break
        end
        -- All of a quiet ring is too old at once; of others little is, for this is done often.
        shift(ring, entries, ring.published < now - ring.age and ring.length or 1)
      end
      shifted = shifted + length - ring.length
      if ring.length == 0 and now - ring.published > dedup_ms then
        drop(ring)
      elseif ring.length ~= length then
        save(ring)
      end
      if shifted >= SWEPT then
        return tonumber(found[n + 1])
      end
    end
  end
  return #found < 2 * most and 0 or tonumber(found[#found])
end

-- The older half of the ids goes when the younger one is full, or as old as they count.
local function turn()
  if ids * 2 < dedup_most and now - turned < dedup_ms then
    return
  end
  redis.call('UNLINK', 'ig:rings:ids:old')
  if redis.call('EXISTS', 'ig:rings:ids') == 1 then
    redis.call('RENAME', 'ig:rings:ids', 'ig:rings:ids:old')
  end
  ids, turned = 0, now
end

-- Write what publishes added; what follows must see it.
local function settle()
  for _, ring in ipairs(changed) do
    if ring.fresh then
      add(ring)
    else
      save(ring)
    end
    ring.fresh, ring.is_changed, ring.nodes = nil, nil, nil
  end
  changed = {}
end

local function work()
  if asked[1][1] == 3 then
    free_first()
  end
  begin()
  local answers = {}
  for n, one in ipairs(asked) do
    local what = one[1]
    if what == 0 then
      answers[n + 4] = publish(unpack(one, 2))
    else
      settle()
      if what == 1 then
        answers[n + 4] = watch(one[2], one[3])
      elseif what == 2 then
        local _, _, name = names(one[2] .. ':' .. one[3])
        redis.call('HDEL', name, node)
        answers[n + 4] = 0
      else
        answers[n + 4] = sweep(one[2], one[3], one[4])
      end
    end
  end
  settle()
  if bytes > memory_bytes then
    evict()
  end
  turn()
  store()
  answers[1], answers[2], answers[3], answers[4] = epoch, bytes, count, evicted
  local gone = flush()
  if gone then
    for _, id in ipairs(hinted) do
      local _, _, name = names(id)
      for one in pairs(gone) do
        redis.call('HDEL', name, one)
      end
    end
  end
  return answers
end

return once('rings', node, number, answered, work)
