-- A session ends. ARGV: shift_ms, bucket, user, device, generation, node, forget (1: the device with it).
-- Answers the device's follows if it was forgotten, also when asked again; a stale generation ends nothing.
--
-- ig:{b}:forgot:USER\0DEVICE\0GENERATION   what was answered, for so long
-- with session
local FORGOT_MS = 600000
local device, hash, more = ARGV[4], user_key(ARGV[2], ARGV[3]), more_key(ARGV[2], ARGV[3])
local forgot = key(ARGV[2], 'forgot', table.concat({ARGV[3], device, ARGV[5]}, '\0'))
local state = device_of(hash, device)
if fence(state, tonumber(ARGV[5]), ARGV[6]) ~= 0 then
  return ARGV[7] == '1' and redis.call('GET', forgot) or ''
end
if ARGV[7] == '1' then
  local follows = redis.call('HGET', more, 'f:' .. device) or ''
  if follows ~= '' then
    redis.call('SET', forgot, follows, 'PX', FORGOT_MS)
  end
  redis.call('HDEL', hash, 'd:' .. device)
  redis.call('HDEL', more, 'f:' .. device, 'r:' .. device, 'g:' .. device)
  return follows
end
state[NODE], state[SEEN_MS], state[AWAY] = '', now, 0
keep(hash, device, state)
return ''
