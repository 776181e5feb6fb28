-- The ceiling: wrk sends the bodies of a file, one line each, over and over.
-- Arguments: the file, the path.
local requests, at = {}, 0

function init(arguments)
  local headers = {
    ["Content-Type"] = "application/json",
    ["Accept"] = "application/json",
    ["X-CAP-API-OAUTH-TOKEN"] = "bench",
  }
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", arguments[2], headers, line)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
