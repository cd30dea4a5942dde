"""Callers who sign with their token instead of sending it, as the managed service's own clients do. Pure.

A request says ``Authorization: EAS <signature>``: in base64, the HMAC-SHA1 under the token of five lines, which are
the method, ``Content-MD5``, ``Content-Type``, ``Date`` and the path (so do the packages ``eas-prediction`` on PyPI and
``eas-golang-sdk``). A filter finds the door's token that made the signature and puts it in the signature's place; all
else is then as if it had been sent. Neither body nor date are compared with what was signed: as with a token that is
sent, who can read the request can repeat it, and TLS is what keeps it from being read.
"""

from __future__ import annotations

from typing import Any

from gateway.clusters import T
from gateway.port import GatewayState, GroupRoute, ServiceRoute

Doc = dict[str, Any]
KIND = T + "envoy.extensions.filters.http.lua.v3.Lua"
MOST_TOKENS = 64  #: of a door that takes signatures: each of them costs a hash per request, also per hostile one

#: SHA-1 as in RFC 3174, HMAC as in RFC 2104. A token's two padded blocks are hashed once, when the script is loaded.
_SCRIPT = """
local band, bor, bxor, rol, tobit = bit.band, bit.bor, bit.bxor, bit.rol, bit.tobit
local w = {}
local function block(h, s, at)
  for i = 0, 15 do
    local p, q, r, t = string.byte(s, at + 4 * i, at + 4 * i + 3)
    w[i] = bor(bit.lshift(p, 24), bit.lshift(q, 16), bit.lshift(r, 8), t)
  end
  for i = 16, 79 do w[i] = rol(bxor(w[i - 3], w[i - 8], w[i - 14], w[i - 16]), 1) end
  local a, b, c, d, e = h[1], h[2], h[3], h[4], h[5]
  for i = 0, 79 do
    local f, k
    if i < 20 then f, k = bxor(d, band(b, bxor(c, d))), 0x5A827999
    elseif i < 40 then f, k = bxor(b, c, d), 0x6ED9EBA1
    elseif i < 60 then f, k = bor(band(b, c), band(d, bor(b, c))), 0x8F1BBCDC
    else f, k = bxor(b, c, d), 0xCA62C1D6 end
    a, b, c, d, e = tobit(rol(a, 5) + f + e + k + w[i]), a, rol(b, 30), c, d
  end
  return {tobit(h[1] + a), tobit(h[2] + b), tobit(h[3] + c), tobit(h[4] + d), tobit(h[5] + e)}
end
local function bytes(n)
  return string.char(band(bit.rshift(n, 24), 255), band(bit.rshift(n, 16), 255), band(bit.rshift(n, 8), 255),
    band(n, 255))
end
local function digest(h, s, before)
  s = s .. "\\128" .. string.rep("\\0", (55 - #s) % 64 + 4) .. bytes((before + #s) * 8)
  for at = 1, #s, 64 do h = block(h, s, at) end
  return bytes(h[1]) .. bytes(h[2]) .. bytes(h[3]) .. bytes(h[4]) .. bytes(h[5])
end
local first = {0x67452301, tobit(0xEFCDAB89), tobit(0x98BADCFE), 0x10325476, tobit(0xC3D2E1F0)}
local function padded(key, with)
  return (string.gsub(key .. string.rep("\\0", 64 - #key), ".", function(c)
    return string.char(bxor(string.byte(c), with))
  end))
end
local function prepared(token)
  local key = #token > 64 and digest(first, token, 0) or token
  return {token, block(first, padded(key, 0x36), 1), block(first, padded(key, 0x5c), 1)}
end
local doors = {}
local function door(name, tokens)
  doors[name] = {}
  for token in string.gmatch(tokens, "%S+") do table.insert(doors[name], prepared(token)) end
end
function envoy_on_request(handle)
  local headers = handle:headers()
  local given = string.match(headers:get("authorization") or "", "^EAS%s+(%S+)$")
  if not given or #given ~= 28 then return end
  local path = string.match(headers:get(":path"), "^[^?]*")
  local text = table.concat({headers:get(":method"), headers:get("content-md5") or "",
    headers:get("content-type") or "", headers:get("date") or "", path}, "\\n")
  if #text > 1024 then return end
  for _, key in ipairs(doors[string.match(path, "^/api/predict/([^/]+)")] or {}) do
    if handle:base64Escape(digest(key[3], digest(key[2], text, 64), 64)) == given then
      headers:replace("authorization", key[1])
      return
    end
  end
end
"""


def signers(state: GatewayState) -> Doc:
    """The filter, with the tokens of all doors that take signatures."""
    calls = [f"door({_text(d.name)}, {_text(' '.join(t.secret for t in d.tokens))})" for d in signed_doors(state)]
    return {"@type": KIND, "default_source_code": {"inline_string": "\n".join([_SCRIPT, *calls])}}


def signed_doors(state: GatewayState) -> list[ServiceRoute | GroupRoute]:
    """The services that ask for it, and the groups that have one as a member."""
    signed = {service.name for service in state.services if service.traffic.signed}
    groups = [group for group in state.groups if signed & {member.service for member in group.members}]
    return [*(service for service in state.services if service.name in signed), *groups]


def _text(value: str) -> str:
    r"""A Lua string.

    >>> _text('a"b\\c')
    '"a\\"b\\\\c"'
    """
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'
