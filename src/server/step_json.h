// A step as JSON, in the format of records (docs/guide.md, "Records").
#pragma once

#include "generation.h"
#include "json_schema.h"
#include "text_model.h"

namespace gsd::server {

Json step_json(const TextModel& model, const StepTrace& step);

}  // namespace gsd::server
