-- A node watches logs, or does not any more. ARGV: shift_ms, node, cmsgpack {{1 watch | 0 unwatch, bucket, log} …}
-- Answers {epoch, first, head …} of those watched: what comes later is told.
-- with log
local answers = {}
for _, wish in ipairs(cmsgpack.unpack(ARGV[3])) do
  local bucket, text = wish[2], wish[3]
  if wish[1] == 0 then
    redis.call('SREM', key(bucket, 'w', text), ARGV[2])
  else
    redis.call('SADD', key(bucket, 'w', text), ARGV[2])
    local epoch, first, head = position(bucket, text)
    answers[#answers + 1] = epoch
    answers[#answers + 1] = first
    answers[#answers + 1] = head
  end
end
return answers
