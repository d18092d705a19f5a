-- One block of a ring, as `core.ring` cuts them. ARGV: bucket, 'lane:address', after, entries of a block; 0: all
-- that there is, whatever `after` is.
-- Answers {epoch, after, upto, gap, head, now, entry…}, an entry as it stands in the list (see ring.lua); of a
-- block, expired ones are left out. {}: what the rings are now has to be found out by a call of `ring` first.
local bucket, where, after, most = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local stored = redis.call('GET', 'ig:rings')
if not stored then
  return {}
end
local epoch, generation, seq, dropped = unpack(cmsgpack.unpack(stored))
if generation ~= primary_generation then
  return {}
end

local ring = redis.call('GET', key(bucket, 'ring', where))
local ring_epoch, floor, head, count, length, _, _, _, _, age
if ring then
  ring_epoch, floor, head, count, length, _, _, _, _, age = unpack(cmsgpack.unpack(ring))
end
if ring_epoch ~= epoch then
  floor = dropped
  for _, at in ipairs(redis.call('HVALS', key(bucket, 'watch', where))) do
    floor = math.min(floor, tonumber(at))
  end
  return {epoch, math.max(after, floor), math.max(after, seq), after < floor and 1 or 0, seq, now}
end

local entries = key(bucket, 'entries', where)

-- The index of the first entry for which the number at `place` is above `least`; `length` if there is none.
local function first_above(place, least)
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    local numbers = {struct.unpack('>I8I8', redis.call('LINDEX', entries, middle))}
    if numbers[place] > least then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

-- What is too old counts as gone, though it still stands there.
local begin = first_above(2, now - age - 1)
if begin > 0 then
  floor = struct.unpack('>I8', redis.call('LINDEX', entries, begin - 1))
end
if most == 0 then
  local answer = {epoch, floor, head, 0, head, now}
  for n, entry in ipairs(redis.call('LRANGE', entries, begin, -1)) do
    answer[n + 6] = entry
  end
  return answer
end
local gap = after < floor and 1 or 0
local first = math.max(begin, first_above(1, after))
if first >= length then
  return {epoch, math.max(after, floor), math.max(after, head), gap, head, now}
end
-- Borders stand at every so many entries that the ring ever had, whoever reads.
local border = first - (first + count - length) % most
local start, stop = math.max(begin, border), math.min(length, border + most)
local found = redis.call('LRANGE', entries, math.max(0, start - 1), stop - 1)
local before = floor
if start > begin then
  before = struct.unpack('>I8', table.remove(found, 1))
elseif start > 0 then
  table.remove(found, 1)
end
local upto = struct.unpack('>I8', found[#found])
local answer = {epoch, before, upto, gap, head, now}
for _, entry in ipairs(found) do
  local _, _, expires = struct.unpack('>I8I8I8', entry)
  if expires == 0 or expires > now then
    answer[#answer + 1] = entry
  end
end
return answer
