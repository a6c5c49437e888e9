#include "formats/json_check.h"

#include "formats/json_sax.h"

namespace phasor {
namespace {

class DepthSax : public JsonSax {
 public:
  bool start_object(std::size_t) override { return Enter(); }
  bool start_array(std::size_t) override { return depth_ == 0 ? Scalar() : Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }

 protected:
  bool Scalar() override {
    return depth_ > 0 || Fail("expected a JSON object, found another value");
  }

 private:
  bool Enter() {
    ++depth_;
    return depth_ <= kMaxJsonDepth || Fail("expected JSON nested at most " +
                                           std::to_string(kMaxJsonDepth) + " deep, found more");
  }
  bool Leave() {
    --depth_;
    return true;
  }

  int depth_ = 0;
};

}  // namespace

Status CheckJsonObject(std::string_view text, const std::string& where) {
  DepthSax sax;
  if (nlohmann::json::sax_parse(text, &sax)) return Status::Ok();
  return DataCorrupt(where + ": " + sax.error());
}

}  // namespace phasor
