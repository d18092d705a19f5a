-- A node lives. ARGV: shift_ms, node, lease in ms, its open sessions here.
-- Answers {now, sessions that the other nodes told of, {nodes whose lease ran out, at most 8}}.
-- with leases
local node, lease_ms = ARGV[2], tonumber(ARGV[3])
look_at_leases()
if silent_since then
  -- Whoever lived when the silence began has as much time as this node to say that it still does.
  local before = string.format('(%d', silent_since)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', 'ig:nodes', before, '+inf')) do
    redis.call('ZADD', 'ig:nodes', now + lease_ms, other)
  end
end
redis.call('ZADD', 'ig:nodes', now + lease_ms, node)
redis.call('SET', 'ig:leased', now)
redis.call('HSET', 'ig:online', node, ARGV[4])
local others = 0
local told = redis.call('HGETALL', 'ig:online')
for i = 1, #told, 2 do
  local until_ms = redis.call('ZSCORE', 'ig:nodes', told[i])
  if told[i] ~= node and until_ms and tonumber(until_ms) > now then
    others = others + tonumber(told[i + 1])
  end
end
return {now, others, redis.call('ZRANGEBYSCORE', 'ig:nodes', '-inf', now, 'LIMIT', 0, 8)}
