-- A word to oneself through one's subscription. ARGV: shift_ms, node, number.
-- Answers {master_replid, 1: it is heard here, now}: another replid than at the greeting was a replica in between; what
-- is heard elsewhere, at a replica, is so only for its being passed on.
local info = redis.call('INFO', 'replication')
if info:match('role:(%w+)') ~= 'master' then
  return {err = 'READONLY this is a replica by now'}
end
tell(ARGV[2], 'e', ARGV[3])
local is_heard = flush() and 0 or 1
return {info:match('master_replid:(%w+)'), is_heard, now}
