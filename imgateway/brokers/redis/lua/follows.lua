-- Which logs a device follows. ARGV: shift_ms, bucket, user, device, generation, node, logs (one a line).
-- Answers 0, or the code to close the session with.
-- with session
local state, generation = device_of(user_key(ARGV[2], ARGV[3]), ARGV[4]), tonumber(ARGV[5])
local code = is_lost(state, generation) and 0 or fence(state, generation, ARGV[6])
if code == 0 then
  local more, field = more_key(ARGV[2], ARGV[3]), 'f:' .. ARGV[4]
  if ARGV[7] == '' then
    redis.call('HDEL', more, field)
  else
    redis.call('HSET', more, field, ARGV[7])
  end
end
return code
