-- Who is in which room, and who is in a room of which area: what a node asks in one turn, in order. ARGV:
--   node, number, packed {answered, asked}
--     asked, each {what, …}; `member` is 'user\0device':
--       {0, bucket, address, member, generation}   is in it
--       {1, bucket, address, member, generation}   is in it no more
--       {2, node that is gone, most}               nor are its members, so many at a time, unless it lives again
--       {3, cursor, count}                         what stands for this node, about so many at a time
-- Answers each: 1 if that changed who is in it, else 0; to a node that is gone {more, address, member, …} of who left;
-- to the last {next cursor, address, member, generation, …}.
--
-- ig:{bucket}:members:address   member → 'generation@node'; a newer generation takes the place of an older one
-- ig:in:node                    SET of 'key\0member': where to look when the node is gone
-- with leases
local node, number = ARGV[2], ARGV[3]
local answered, asked = unpack(cmsgpack.unpack(ARGV[4]))

local function stay_of(hash, member)
  local stay = redis.call('HGET', hash, member)
  if not stay then
    return 0, nil
  end
  local generation, where = stay:match('^(%d+)@(.*)$')
  return tonumber(generation), where
end

local function enter(hash, member, generation)
  local before, where = stay_of(hash, member)
  if before > generation then
    return 0
  end
  redis.call('HSET', hash, member, string.format('%.0f@%s', generation, node))
  if where ~= node then
    redis.call('SADD', 'ig:in:' .. node, hash .. '\0' .. member)
    if where then
      redis.call('SREM', 'ig:in:' .. where, hash .. '\0' .. member)
    end
  end
  return where and 0 or 1
end

local function leave(hash, member, generation)
  local before, where = stay_of(hash, member)
  if not where or before > generation then
    return 0
  end
  redis.call('HDEL', hash, member)
  redis.call('SREM', 'ig:in:' .. where, hash .. '\0' .. member)
  return 1
end

local function reap(gone, most)
  local name = 'ig:in:' .. gone
  local answer = {0}
  if lives(gone) then
    return answer
  end
  for _, item in ipairs(redis.call('SPOP', name, most)) do
    local hash, member = item:match('^(.-)%z(.*)$')
    local _, where = stay_of(hash, member)
    if where == gone then
      redis.call('HDEL', hash, member)
      answer[#answer + 1] = hash:match('^ig:{%d+}:members:(.*)$')
      answer[#answer + 1] = member
    end
  end
  answer[1] = redis.call('EXISTS', name)
  return answer
end

local function scan(cursor, most)
  local found = redis.call('SSCAN', 'ig:in:' .. node, cursor, 'COUNT', most)
  local answer = {found[1]}
  for _, item in ipairs(found[2]) do
    local hash, member = item:match('^(.-)%z(.*)$')
    local generation, where = stay_of(hash, member)
    if where == node then
      answer[#answer + 1] = hash:match('^ig:{%d+}:members:(.*)$')
      answer[#answer + 1] = member
      answer[#answer + 1] = generation
    end
  end
  return answer
end

local function work()
  local answers = {}
  for n, one in ipairs(asked) do
    if one[1] == 2 then
      answers[n] = reap(one[2], one[3])
    elseif one[1] == 3 then
      answers[n] = scan(one[2], one[3])
    else
      local hash = key(one[2], 'members', one[3])
      answers[n] = (one[1] == 0 and enter or leave)(hash, one[4], one[5])
    end
  end
  return answers
end

return once('rooms', node, number, answered, work)
