-- Run on every new line before anything else: whose data is this?
-- ARGV: shift_ms, node ('' for a line that only reads), address, lossless (1: a restart loses nothing), epoch for
-- data that is new, n as this node knows it (0: not), what it is among the primaries, number of this connection, the
-- last connection that was greeted, and up to which call it is sure that they ran. Answers {n, epoch, master_replid,
-- now}, or -PLACE: it is something else to other nodes.
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
local line, connection = ARGV[2] ~= '' and 'ig:line:' .. ARGV[2], tonumber(ARGV[8])
local last_connection, last_call = ((line and redis.call('GET', line)) or '0.0.0'):match('^%d+%.(%d+)%.(%d+)$')
last_connection, last_call = tonumber(last_connection), tonumber(last_call)
if line and last_connection > connection then
  return {err = 'FENCED a newer connection was greeted'}
end
local n, epoch = tonumber(stored[1]), stored[4]
local before = n
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- More than n can have been before: it does not rise every hour.
local hours = math.floor(time[1] / 3600)
if not n then
  -- Higher than what data that went lost can have had, for generations of sessions contain it.
  n, epoch = math.max(hours, ARGV[6] + 1), ARGV[5]
elseif stored[2] ~= run_id then
  -- The same primary, back with its own disk, has everything; a promoted replica may miss the last writes.
  -- How it is set now says nothing of how it was set when it ended.
  local is_lossless = ARGV[4] == '1' and stored[5] ~= '0'
  local own_disk = stored[3] == ARGV[3] and info:match('master_replid2:0+%s') and is_lossless
  n = own_disk and n or n + 1
  if not stored[3] then
    -- An operator took the address away: it is a backup, and the n of after it is known to nobody.
    n = math.max(n, hours)
  end
end
if line and ARGV[6] ~= '0' then
  -- Where calls of this node did not run that it had answers to, or where n was never what it was for this node, is
  -- something older than what it knew: a backup, the disk of a primary that another one stood in for. Whoever greeted
  -- first may not have seen that. What was lost had seqs of the n that this node knows, or of lower ones.
  local known, heard_connection = tonumber(ARGV[6]), tonumber(ARGV[9])
  local is_older = last_connection < heard_connection
    or (last_connection == heard_connection and last_call < tonumber(ARGV[10]))
  if is_older or (before or 0) < known then
    n = math.max(n, known + 1)
  end
end
if n ~= before or stored[2] ~= run_id or stored[5] ~= ARGV[4] or not stored[6] then
  redis.call('HSET', 'ig:primary', 'n', n, 'run_id', run_id, 'address', ARGV[3], 'epoch', epoch,
    'lossless', ARGV[4], 'place', ARGV[7])
end
if n ~= before then
  redis.call('HSET', 'ig:primary', 'raised_ms', now)
  -- Seqs lost with a log jump by how often n rose since the data was new.
  redis.call('HSETNX', 'ig:primary', 'base', n)
end
if line then
  redis.call('SET', line, n .. '.' .. connection .. '.0')
end
return {n, epoch, info:match('master_replid:(%w+)'), now + ARGV[1]}
