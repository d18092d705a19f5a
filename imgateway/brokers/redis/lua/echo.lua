-- A word to oneself through one's subscription. ARGV: shift_ms, node, number.
-- Answers master_replid: another than at the greeting was a replica in between.
local info = redis.call('INFO', 'replication')
if info:match('role:(%w+)') ~= 'master' then
  return {err = 'READONLY this is a replica by now'}
end
tell(ARGV[2], 'e', ARGV[3])
flush()
return info:match('master_replid:(%w+)')
