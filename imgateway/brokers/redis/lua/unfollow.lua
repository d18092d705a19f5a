-- A device has no place in these logs any more. ARGV: shift_ms, user, device, generation, then for each:
-- bucket, log. What a newer generation wrote stays.
-- with cursors
local field, generation = ARGV[2] .. '\0' .. ARGV[3], tonumber(ARGV[4])
for i = 5, #ARGV, 2 do
  local hash = key(ARGV[i], 'c', ARGV[i + 1])
  local cursor = cursor_of(hash, field)
  if cursor and cursor[GENERATION] <= generation then
    redis.call('HDEL', hash, field)
    redis.call('SET', left_key(ARGV[i], ARGV[i + 1], field), ARGV[4], 'PX', LEFT_MS)
  end
end
return 1
