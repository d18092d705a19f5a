-- A node lives. ARGV: shift_ms, node, lease in ms, its open sessions here.
-- Answers {now, sessions that the other nodes told of, {nodes whose lease ran out, at most 8}, 1, or 0: this node was
-- taken for gone}.
-- with leases
local node, lease_ms = ARGV[2], tonumber(ARGV[3])
local until_ms = tonumber(redis.call('ZSCORE', 'ig:nodes', node) or DEAD)
look_at_leases()
if silent_since then
  -- Whoever lived when the silence began has as much time as this node to say that it still does.
  local before = string.format('(%d', silent_since)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', 'ig:nodes', before, '+inf')) do
    redis.call('ZADD', 'ig:nodes', now + lease_ms, other)
  end
end
-- Nobody has longer than that, unless the clock was put back; and whoever died before that would live until it is as
-- late again.
for _, other in ipairs(redis.call('ZRANGEBYSCORE', 'ig:nodes', string.format('(%d', now + lease_ms), '+inf')) do
  redis.call('ZADD', 'ig:nodes', now + lease_ms, other)
end
redis.call('ZADD', 'ig:nodes', now + lease_ms, node)
redis.call('SET', 'ig:leased', now)
redis.call('HSET', 'ig:online', node, ARGV[4])
local others = 0
local told = redis.call('HGETALL', 'ig:online')
for i = 1, #told, 2 do
  local its_ms = redis.call('ZSCORE', 'ig:nodes', told[i])
  if told[i] ~= node and its_ms and tonumber(its_ms) > now then
    others = others + tonumber(told[i + 1])
  end
end
local dead = redis.call('ZRANGEBYSCORE', 'ig:nodes', '-inf', now, 'LIMIT', 0, 8)
for _, other in ipairs(dead) do
  redis.call('ZADD', 'ig:nodes', DEAD, other)  -- and it hears that, whatever becomes of the clock meanwhile
end
return {now, others, dead, until_ms > DEAD and 1 or 0}
