-- Health of a PyTorchJob: Healthy as soon as it runs, so that an application settles while its runs train for days.
-- Conditions stay when others come; the first of this list that is True says how it is.
local health = {
  {"Failed", "Degraded"},
  {"Succeeded", "Healthy"},
  {"Suspended", "Suspended"}, -- cancelled, or waiting in a queue
  {"Restarting", "Progressing"},
  {"Running", "Healthy"},
}
local conditions = obj.status ~= nil and obj.status.conditions or {}
for _, known in ipairs(health) do
  for _, condition in ipairs(conditions) do
    if condition.type == known[1] and condition.status == "True" then
      return {status = known[2], message = condition.message}
    end
  end
end
return {status = "Progressing", message = "waiting for its pods"}
