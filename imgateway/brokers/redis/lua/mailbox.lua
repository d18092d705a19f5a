-- How far a mailbox has got. ARGV: shift_ms, bucket, log, user. Answers {epoch, first, head, seen}.
-- with log
local epoch, first, head = position(ARGV[2], ARGV[3])
return {epoch, first, head, tonumber(redis.call('HGET', key(ARGV[2], 'u', ARGV[4]), 'seen') or 0)}
