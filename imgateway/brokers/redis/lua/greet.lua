-- Run on every new line before anything else: whose data is this?
-- ARGV: shift_ms, line ('' for one that only reads; else it replaces this node's older ones), address, lossless
-- (1: a restart loses nothing), epoch for data that is new, n as this node knows it (0: not), what it is among
-- the primaries, until when (ms) this node knows of its data. Answers {n, epoch, master_replid}, or -PLACE: it is
-- something else to other nodes.
-- Has no prelude: it makes what that looks for.
local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
local run_id = info:match('run_id:(%w+)')
if info:match('role:(%w+)') ~= 'master' then
  return {err = 'READONLY this is a replica'}
end
local stored = redis.call('HMGET', 'ig:primary', 'n', 'run_id', 'address', 'epoch', 'lossless', 'place')
if stored[6] and stored[6] ~= ARGV[7] then
  return {err = 'PLACE ' .. stored[6]}
end
local n, epoch = tonumber(stored[1]), stored[4]
local before = n
if not n then
  -- Higher than what data that went lost can have had, for generations of sessions contain it.
  n, epoch = math.max(math.floor(redis.call('TIME')[1] / 3600), ARGV[6] + 1), ARGV[5]
elseif stored[2] ~= run_id then
  -- The same primary, back with its own disk, has everything; a promoted replica may miss the last writes.
  -- How it is set now says nothing of how it was set when it ended; and its data may be that of a backup.
  local is_whole = tonumber(redis.call('GET', 'ig:leased') or 0) >= tonumber(ARGV[8])
  local is_lossless = ARGV[4] == '1' and stored[5] ~= '0' and is_whole
  local own_disk = stored[3] == ARGV[3] and info:match('master_replid2:0+%s') and is_lossless
  n = own_disk and n or n + 1
end
if stored[2] ~= run_id or stored[5] ~= ARGV[4] or not stored[6] then
  redis.call('HSET', 'ig:primary', 'n', n, 'run_id', run_id, 'address', ARGV[3], 'epoch', epoch,
    'lossless', ARGV[4], 'place', ARGV[7])
end
if n ~= before then
  local time = redis.call('TIME')
  redis.call('HSET', 'ig:primary', 'raised_ms', time[1] * 1000 + math.floor(time[2] / 1000))
  -- Seqs lost with a log jump by how often n rose since the data was new.
  redis.call('HSETNX', 'ig:primary', 'base', n)
end
if ARGV[2] ~= '' then
  -- Those of processes long gone: the living ones greet again.
  if redis.call('HLEN', 'ig:lines') >= 10000 then
    redis.call('DEL', 'ig:lines')
  end
  redis.call('HSET', 'ig:lines', ARGV[2]:match('^(.*)%.'), ARGV[2])
end
return {n, epoch, info:match('master_replid:(%w+)')}
