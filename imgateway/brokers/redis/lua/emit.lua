-- qos 0: tell whoever watches a log, and keep nothing. ARGV: shift_ms, own node (it knows already),
-- cmsgpack {{bucket, log, address, entry} …}
for _, item in ipairs(cmsgpack.unpack(ARGV[3])) do
  local hint
  for _, node in ipairs(redis.call('SMEMBERS', key(item[1], 'w', item[2]))) do
    if node ~= ARGV[2] then
      hint = hint or cmsgpack.pack({'p', item[3], item[4]})
      tell_packed(node, hint)
    end
  end
end
flush()
return 1
