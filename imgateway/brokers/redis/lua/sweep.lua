-- Take what is past its time from some logs. ARGV: shift_ms, age_ms, how many logs. Answers how many had
-- something to lose.
-- with log
-- with retention
free_first()
keep_for(tonumber(ARGV[2]))
local due = redis.call('ZRANGEBYSCORE', 'ig:due', '-inf', now, 'LIMIT', 0, ARGV[3])
for _, member in ipairs(due) do
  local bucket, text = member:match('^(%d+):(.*)$')
  local log = load_log(bucket, text)
  compact(log)
  save_log(log)
end
return #due
