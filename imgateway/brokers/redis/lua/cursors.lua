-- How far devices have got in logs that they follow. ARGV: shift_ms, epoch, then for each: bucket, log, user,
-- device, generation, acked, parked. With another epoch than that of the logs here acked and parked are of other
-- logs, and count for nothing. Answers for each 0, or the code to close the session with.
-- with cursors
local STALE = 7
local has_positions, codes = is_of_this_data(ARGV[2]), {}
for i = 3, #ARGV, 7 do
  local hash, field = key(ARGV[i], 'c', ARGV[i + 1]), ARGV[i + 2] .. '\0' .. ARGV[i + 3]
  local generation = tonumber(ARGV[i + 4])
  local cursor = cursor_of(hash, field)
  if newest(cursor, ARGV[i], ARGV[i + 1], field) > generation then
    codes[#codes + 1] = STALE
  else
    local acked, parked = cursor and cursor[ACKED] or 0, cursor and cursor[PARKED] or ''
    if has_positions then
      acked, parked = stand_as(acked, parked, tonumber(ARGV[i + 5]), ARGV[i + 6])
    end
    redis.call('HSET', hash, field, cmsgpack.pack({generation, acked, parked, now}))
    codes[#codes + 1] = 0
  end
end
return codes
