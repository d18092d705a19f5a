-- A node is no more: all that it had was taken back, or it left of itself. ARGV: shift_ms, node, even if its lease
-- runs (1). Answers 1, or 0: it lives.
-- with leases
if ARGV[3] ~= '1' and lives(ARGV[2]) then
  return 0
end
redis.call('ZREM', 'ig:nodes', ARGV[2])
redis.call('HDEL', 'ig:online', ARGV[2])
return 1
