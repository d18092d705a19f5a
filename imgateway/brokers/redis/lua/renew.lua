-- A session has a new token. ARGV: shift_ms, bucket, user, device, generation, node, issued_at_s.
-- Answers the verdict.
-- with session
local OK, REVOKED, OUTRUN = 0, 2, 3
local hash = user_key(ARGV[2], ARGV[3])
local state, generation = device_of(hash, ARGV[4]), tonumber(ARGV[5])
local is_unknown = is_lost(state, generation)
if not is_unknown and fence(state, generation, ARGV[6]) ~= 0 then
  return OUTRUN
end
local issued_at_s = tonumber(ARGV[7])
if issued_at_s < tonumber(redis.call('HGET', hash, 'nb') or 0) then
  return REVOKED
end
if not is_unknown then
  state[ISSUED_S] = issued_at_s
  keep(hash, ARGV[4], state)
end
return OK
