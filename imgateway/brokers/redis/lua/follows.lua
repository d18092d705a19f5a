-- Which logs devices follow. ARGV: shift_ms, node ('': the session has ended), then for each: bucket, user, device,
-- generation, logs (one a line).
-- Answers for each 0, or the code to close the session with.
-- with session
local codes = {}
for i = 3, #ARGV, 5 do
  local bucket, user, device, generation = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local state = device_of(user_key(bucket, user), device)
  local code = is_lost(state, generation) and 0 or fence(state, generation, ARGV[2])
  codes[#codes + 1] = code
  if code == 0 then
    local more, field = more_key(bucket, user), 'f:' .. device
    if ARGV[i + 4] == '' then
      redis.call('HDEL', more, field)
    else
      redis.call('HSET', more, field, ARGV[i + 4])
    end
  end
end
return codes
