-- A device begins to follow a log. ARGV: shift_ms, bucket, log, user, device, generation, begin.
-- Answers {acked, parked} where it stands now, or {}: this generation is stale. What an older one left was
-- forgotten.
-- with cursors
local hash, field = key(ARGV[2], 'c', ARGV[3]), ARGV[4] .. '\0' .. ARGV[5]
local generation = tonumber(ARGV[6])
local cursor = cursor_of(hash, field)
if cursor and cursor[GENERATION] > generation then
  return {}
elseif not cursor or cursor[GENERATION] < generation then
  cursor = {generation, tonumber(ARGV[7]), '', now}
  redis.call('HSET', hash, field, cmsgpack.pack(cursor))
end
return {cursor[ACKED], cursor[PARKED]}
