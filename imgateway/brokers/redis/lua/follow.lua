-- A device begins to follow a log. ARGV: shift_ms, epoch, bucket, log, user, device, generation,
-- begin: of the data with this epoch; in another log it begins with all that is there.
-- Answers {acked, parked} where it stands now, or {}: this generation is stale. What an older one left was
-- forgotten.
-- with cursors
local hash, field = key(ARGV[3], 'c', ARGV[4]), ARGV[5] .. '\0' .. ARGV[6]
local generation = tonumber(ARGV[7])
local cursor = cursor_of(hash, field)
if newest(cursor, ARGV[3], ARGV[4], field) > generation then
  return {}
elseif not cursor or cursor[GENERATION] < generation then
  cursor = {generation, is_of_this_data(ARGV[2]) and tonumber(ARGV[8]) or 0, '', now}
  redis.call('HSET', hash, field, cmsgpack.pack(cursor))
end
return {cursor[ACKED], cursor[PARKED]}
