-- A node is no more: all that it had was taken back, or it left of itself. ARGV: shift_ms, node, even if its lease
-- runs (1). Answers 1, or 0: it lives.
-- with leases
local node = ARGV[2]
if ARGV[3] ~= '1' and lives(node) then
  return 0
end
-- One that was only silent may yet send again what these are the answers to.
for _, kind in ipairs({'rooms', 'rings'}) do
  redis.call('PEXPIRE', 'ig:answers:' .. node .. ':' .. kind, 86400000)
end
redis.call('PEXPIRE', 'ig:line:' .. node, 604800000)
if redis.call('EXISTS', 'ig:in:' .. node) == 1 then
  -- It leaves somebody behind in a room: another node finds it dead with its next renewal, and reaps it.
  redis.call('ZADD', 'ig:nodes', DEAD, node)
else
  redis.call('ZREM', 'ig:nodes', node)
end
redis.call('HDEL', 'ig:online', node)
redis.call('HDEL', 'ig:named', node)
return 1
