-- Give a log an epoch of its own, for its clients know more of it than it does; whoever watches it reads.
-- ARGV: shift_ms, bucket, log, epoch. Answers {epoch, first, head}.
-- with log
local log = load_log(ARGV[2], ARGV[3])
if log.epoch ~= tonumber(ARGV[4]) then
  log.epoch = tonumber(ARGV[4])
  save_log(log)
  for _, node in ipairs(redis.call('SMEMBERS', key(log.bucket, 'w', log.text))) do
    tell(node, 'a', log.text, log.epoch, log.head, log.head, 0, {})
  end
  flush()
end
return {log.epoch, log.first, log.head}
