-- How far devices have got in logs that they follow. ARGV: shift_ms, then for each: bucket, log, user, device,
-- generation, acked, parked. Answers for each 0, or the code to close the session with.
-- with cursors
local STALE = 7
local codes = {}
for i = 2, #ARGV, 7 do
  local hash, field = key(ARGV[i], 'c', ARGV[i + 1]), ARGV[i + 2] .. '\0' .. ARGV[i + 3]
  local generation, acked = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local cursor = cursor_of(hash, field)
  if cursor and cursor[GENERATION] > generation then
    codes[#codes + 1] = STALE
  else
    acked = cursor and math.max(cursor[ACKED], acked) or acked
    redis.call('HSET', hash, field, cmsgpack.pack({generation, acked, ARGV[i + 6], now}))
    codes[#codes + 1] = 0
  end
end
return codes
