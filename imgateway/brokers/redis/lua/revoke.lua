-- Tokens from before a time open nothing any more. ARGV: shift_ms, bucket, user, not_before_s, node.
-- Answers {device, generation, …} that this node still has of the user's sessions. Never lowered: an older
-- revocation that comes late changes nothing.
-- with session
local CODE = 206
local hash, user, node = user_key(ARGV[2], ARGV[3]), ARGV[3], ARGV[5]
local states, not_before_s = all_of(hash)
not_before_s = math.max(not_before_s, tonumber(ARGV[4]))
redis.call('HSET', hash, 'nb', not_before_s)
for device, state in pairs(states) do
  if state[NODE] ~= '' and state[ISSUED_S] < not_before_s then
    displace(hash, user, device, state, CODE, node)
  end
end
flush()
return had_by(states, node)
