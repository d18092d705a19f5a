-- Append messages to durable logs, and tell the nodes that watch those.
-- ARGV: shift_ms, cmsgpack {token, dedup_ms, max_entries, max_bytes, age_ms, unseen_ms, bodies, appends}
--   bodies: {{name 16, message} …}, shared by several appends
--   appends: {bucket as text, log, digest, ttl_ms, bytes, body (its number, 0: none), rest of the entry, and so
--     on for the next}
-- Answers {store epoch, {code, seq, code, seq …}, {n, epoch …} of those whose log has its own,
--   {n …} of those that were stored in a mailbox which nobody watches, or several nodes whose sessions all wait
--   for their clients; a node that is the only one knows that itself}.
-- A run again finds its own token with the digests: what it had appended is OK and not a repeat.
-- with log
-- with leases
-- with retention
local OK, DUPLICATE, FULL = 0, 1, 2
-- So long a refusal is remembered for a run again.
local REFUSED_MS = 60000

local token, dedup_ms, max_entries, max_bytes, unseen_ms, bodies, appends
do
  local order = cmsgpack.unpack(ARGV[2])
  token, dedup_ms, max_entries, max_bytes = order[1], order[2], order[3], order[4]
  keep_for(order[5])
  unseen_ms, bodies, appends = order[6], order[7], order[8]
end
local at_s = math.floor(now / 1000)
local mark = ':' .. now + dedup_ms .. ':' .. token
local dedup_px = string.format('%d', dedup_ms)  -- as text: what a call gets as a number it prints each time

local function devices_of(log)
  local id = log.text:match('^user:(.*)$'):gsub('%%2F', '/'):gsub('%%25', '%%')
  local found, devices = redis.call('HGETALL', key(log.bucket, 'u', id)), {}
  for i = 1, #found, 2 do
    if found[i]:sub(1, 2) == 'd:' then
      devices[#devices + 1] = cmsgpack.unpack(found[i + 1])
    end
  end
  return devices
end

-- Is any device connected just now?
local function is_attended(log)
  for _, device in ipairs(devices_of(log)) do
    if device[12] == 0 and is_held(device) then
      return true
    end
  end
  return false
end

-- What every device has: nothing above it goes for want of room, and of what is below nothing that one of them has
-- set aside, {[seq] = true}. Mail waits for its device, a service's for its reader; what nobody follows of a topic is
-- owed to nobody.
local function kept_of(log)
  local kind = log.text:match('^%l+')
  local floor, aside = nil, {}
  local function keeps(acked, parked)
    floor = math.min(floor or acked, acked)
    for seq in parked:gmatch('%d+') do
      aside[tonumber(seq)] = true
    end
  end
  if kind == 'user' then
    for _, device in ipairs(devices_of(log)) do
      if is_held(device) or tonumber(device[4]) > now - unseen_ms then
        keeps(device[3], device[10])
      end
    end
    return floor or 0, aside
  end
  for _, packed in ipairs(redis.call('HVALS', key(log.bucket, 'c', log.text))) do
    local cursor = cmsgpack.unpack(packed)
    if tonumber(cursor[4]) > now - unseen_ms then
      keeps(cursor[2], cursor[3])
    end
  end
  return floor or (kind == 'topic' and log.head or 0), aside
end

local function has_room(log, size)
  return log.count < max_entries and log.bytes + size <= max_bytes
end

local function make_room(log, size)
  local in_vain = key(log.bucket, 'v', log.text)
  if redis.call('EXISTS', in_vain) == 1 then
    return false
  end
  local want, free = math.max(1, math.floor(max_entries / 8)), math.max(math.floor(max_bytes / 8), size)
  local floor, aside = kept_of(log)
  local removed, all = 0, 0
  repeat
    removed = drop_front(log, floor, aside, want, free)
    if removed == 0 and log.brief > 0 then
      removed = drop_expired(log)
    end
    all = all + removed
  until removed == 0 or has_room(log, size)
  if all > 0 then
    settle_log(log)
  end
  if not has_room(log, size) and log.text:sub(1, 5) ~= 'user:' then
    -- It may have very many followers: not looked through again for each message.
    redis.call('SET', in_vain, 1, 'PX', 1000)
  end
  return has_room(log, size)
end

local logs, touched = {}, {}

local function open_log(bucket, text)
  local log = load_log(bucket, text)
  if log.due > 0 and log.due <= now then
    compact(log)
  end
  log.before = log.head  -- behind a jump: who watches finds that by reading
  logs[text] = log
  touched[#touched + 1] = log
  return log
end

-- What the digest stands for already: code and seq; nil: it is new.
local function taken(digest_key, value)
  local old = redis.call('SET', digest_key, value, 'NX', 'GET', 'PX', dedup_px)
  if not old then
    return nil
  end
  local seq, deadline_ms, by = old:match('^(%d+):(%d+):(.*)$')
  seq = tonumber(seq)
  if tonumber(deadline_ms) > now then
    if by == token then
      return seq > 0 and OK or FULL, seq
    elseif seq > 0 then
      return DUPLICATE, seq
    end
  end
  redis.call('SET', digest_key, value, 'PX', dedup_px)
  return nil
end

local outcomes, own_epochs = {}, {}
for n = 1, #appends / 7 do
  local bucket, text, digest, ttl_ms, size, body, rest = unpack(appends, 7 * n - 6, 7 * n)
  local log = logs[text] or open_log(bucket, text)
  local seq = log.head + 1
  local digest_key = log.prefix .. 'd:' .. digest
  local code, taken_seq = taken(digest_key, seq .. mark)
  if code then
    seq = taken_seq
  elseif not has_room(log, size) and not make_room(log, size) then
    code, seq = FULL, 0
    redis.call('SET', digest_key, '0' .. mark, 'PX', REFUSED_MS)
  else
    code = OK
    local expires_ms = ttl_ms > 0 and now + ttl_ms or 0
    local entry = struct.pack(ENTRY, seq, at_s, expires_ms, size, body > 0 and 1 or 0) .. rest
    log.head, log.count, log.bytes = seq, log.count + 1, log.bytes + size
    if log.pushed then
      log.pushed[#log.pushed + 1], log.numbers[#log.numbers + 1] = entry, n
    else
      log.pushed, log.numbers = {entry}, {n}
    end
    if body > 0 then
      log.bodies = log.bodies or {}
      log.bodies[#log.bodies + 1] = body
      bodies[body].used = true
    end
    if expires_ms > 0 then
      log.brief = log.brief + 1
    end
    local due = expires_ms > 0 and expires_ms or (at_s + 1) * 1000 + age_ms
    if log.due == 0 or (expires_ms > 0 and due < log.due) then
      log.due, log.later = due, true
    end
  end
  outcomes[2 * n - 1], outcomes[2 * n] = code, seq
  if log.epoch ~= store_epoch then
    own_epochs[#own_epochs + 1] = n
    own_epochs[#own_epochs + 1] = log.epoch
  end
end

for _, body in ipairs(bodies) do
  if body.used then
    -- It outlives every entry that names it.
    redis.call('SET', key('shared', 'b', body[1]), body[2], 'PX', age_ms + 3600000)
  end
end

local alive = {}
local function is_alive(node)
  if alive[node] == nil then
    alive[node] = redis.call('PUBSUB', 'NUMSUB', 'ig:node:' .. node)[2] > 0
  end
  return alive[node]
end

local unwatched, has_body = {}, {}
for _, log in ipairs(touched) do
  if log.pushed then
    redis.call('RPUSH', log.l, unpack(log.pushed))
    if log.later then
      redis.call('ZADD', 'ig:due', log.due, log.bucket .. ':' .. log.text)
    end
    save_log(log)
    local w = log.prefix .. 'w:' .. log.text
    local nodes = redis.call('SMEMBERS', w)
    for i = #nodes, 1, -1 do
      if not is_alive(nodes[i]) then
        redis.call('SREM', w, table.remove(nodes, i))
      end
    end
    if #nodes > 0 then
      for _, node in ipairs(nodes) do
        for _, body in ipairs(log.bodies or {}) do
          local had = has_body[node] or {}
          has_body[node] = had
          if not had[body] then
            had[body] = true
            tell(node, 'a', '', bodies[body][1], bodies[body][2])
          end
        end
        tell(node, 'a', log.text, log.epoch, log.before, log.head, #nodes, log.pushed)
      end
    end
    if #nodes ~= 1 and log.text:sub(1, 5) == 'user:' and (#nodes == 0 or not is_attended(log)) then
      for _, n in ipairs(log.numbers) do
        unwatched[#unwatched + 1] = n
      end
    end
  elseif log.changed then
    save_log(log)
  end
end
flush()
return {store_epoch, outcomes, own_epochs, unwatched}
