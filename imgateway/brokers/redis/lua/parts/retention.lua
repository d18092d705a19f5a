-- What a log loses: by age, by its entries' own time, and for quota what every device has. Wants `with log`.
--
-- ig:due  ZSET bucket:log → when something of it may go (ms); `sweep` looks there.

-- Full logs are not searched through more often than this for entries that expired behind others.
local SEARCH_MS = 60000

local oldest_s, age_ms

local function keep_for(ms)
  age_ms = ms
  oldest_s = math.floor((now - ms) / 1000)
end

-- Where it begins now, and when something may go next. `pushed`: entries that the list gets in a moment.
local function settle_log(log)
  local front = redis.call('LINDEX', log.l, 0) or (log.pushed and log.pushed[1])
  if front then
    local seq, at_s = struct.unpack(ENTRY, front)
    local due = (at_s + 1) * 1000 + age_ms
    log.first = seq
    log.due = log.brief > 0 and log.due > 0 and math.min(due, log.due) or due
    redis.call('ZADD', 'ig:due', log.due, log.bucket .. ':' .. log.text)
  else
    log.first, log.due, log.brief = log.head + 1, 0, 0
    redis.call('ZREM', 'ig:due', log.bucket .. ':' .. log.text)
  end
  while #log.jumps > 0 and log.first > log.jumps[2] do
    log.lost = math.max(log.lost, log.jumps[2])
    table.remove(log.jumps, 1)
    table.remove(log.jumps, 1)
  end
  log.changed = true
end

-- Take entries from the front: the dead ones, and up to `floor` as many as are wanted and as free so many bytes, but
-- those in `aside`. What went by its own time is no loss. Answers how many went.
local function drop_front(log, floor, aside, want, free)
  local removed, freed, stay = 0, 0, {}
  repeat
    local chunk = redis.call('LRANGE', log.l, 0, 31)
    local taken = 0
    for _, entry in ipairs(chunk) do
      local seq, at_s, expires_ms, size = struct.unpack(ENTRY, entry)
      local expired = expires_ms > 0 and expires_ms <= now
      local young = not expired and at_s >= oldest_s
      if young and not (seq <= floor and removed < want and freed < free) then
        break
      end
      taken = taken + 1
      if young and aside[seq] then
        stay[#stay + 1] = entry
      else
        if not expired then
          log.lost = math.max(log.lost, seq)
        end
        if expires_ms > 0 then
          log.brief = log.brief - 1
        end
        removed, freed = removed + 1, freed + size
      end
    end
    if taken > 0 then
      redis.call('LPOP', log.l, taken)
    end
  until taken < 32
  for i = #stay, 1, -1 do
    redis.call('LPUSH', log.l, stay[i])
  end
  log.bytes = log.bytes - freed
  log.count = log.count - removed
  return removed
end

-- Take what expired behind entries that stay. Answers how many went.
local function drop_expired(log)
  local removed, soonest = 0, now + age_ms
  for start = 0, redis.call('LLEN', log.l) - 1, 100 do
    for offset, entry in ipairs(redis.call('LRANGE', log.l, start, start + 99)) do
      local _, _, expires_ms, size = struct.unpack(ENTRY, entry)
      if expires_ms > 0 and expires_ms <= now then
        redis.call('LSET', log.l, start + offset - 1, '')
        removed, log.bytes, log.brief = removed + 1, log.bytes - size, log.brief - 1
      elseif expires_ms > 0 then
        soonest = math.min(soonest, expires_ms)
      end
    end
  end
  if removed > 0 then
    redis.call('LREM', log.l, 0, '')
  end
  log.count = log.count - removed
  log.due = math.max(soonest, now + SEARCH_MS)
  return removed
end

-- Take all that is past its time.
local function compact(log)
  drop_front(log, -1, {}, 0, 0)
  if log.brief > 0 then
    drop_expired(log)
  end
  settle_log(log)
end
