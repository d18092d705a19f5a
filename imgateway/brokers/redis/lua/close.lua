-- A session ends. ARGV: shift_ms, bucket, user, device, generation, node, forget (1: the device with it).
-- Answers the device's follows if it was forgotten; a stale generation ends nothing.
-- with session
local device, hash, more = ARGV[4], user_key(ARGV[2], ARGV[3]), more_key(ARGV[2], ARGV[3])
local state = device_of(hash, device)
if fence(state, tonumber(ARGV[5]), ARGV[6]) ~= 0 then
  return ''
end
if ARGV[7] == '1' then
  local follows = redis.call('HGET', more, 'f:' .. device) or ''
  redis.call('HDEL', hash, 'd:' .. device)
  redis.call('HDEL', more, 'f:' .. device, 'r:' .. device, 'g:' .. device)
  return follows
end
state[NODE], state[SEEN_MS], state[AWAY] = '', now, 0
keep(hash, device, state)
return ''
