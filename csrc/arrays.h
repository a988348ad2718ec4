// What Python hands over as arrays, and the checks of them. A wrong dtype, layout or alignment is no argument of a
// function (TypeError); sizes and contents are checked by name (ValueError, IndexError). Knows no kernels.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <string>

namespace nb = nanobind;

namespace qwick {

template <class... Of>
struct Aligned : nb::ndarray<Of...> {};  // at a multiple of an item's size, as C++ wants its numbers
template <class T, int D>
using Array = Aligned<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;
template <class T, int D>
using Maybe = std::optional<Array<T, D>>;
using Pages = Aligned<nb::ndim<4>, nb::c_contig, nb::device::cpu>;

}  // namespace qwick

template <class... Of>
struct nb::detail::type_caster<qwick::Aligned<Of...>> {
  using Any = nb::ndarray<Of...>;
  NB_TYPE_CASTER(qwick::Aligned<Of...>, make_caster<Any>::Name)
  bool from_python(handle source, uint32_t flags, cleanup_list* cleanup) noexcept {
    make_caster<Any> any;
    if (!any.from_python(source, flags, cleanup)) return false;
    static_cast<Any&>(value) = std::move(any.value);
    return reinterpret_cast<uintptr_t>(value.data()) % value.itemsize() == 0;
  }
};

namespace qwick {

inline void require(bool ok, const std::string& message) {
  if (!ok) throw nb::value_error(message.c_str());
}
template <class A>
void shape_is(const A& a, int axis, size_t expected, const char* name) {
  if (a.shape(axis) != expected)
    throw nb::value_error((std::string(name) + ".shape[" + std::to_string(axis) + "] is " +
                           std::to_string(a.shape(axis)) + ", expected " + std::to_string(expected))
                              .c_str());
}
template <class A>
void values_within(const A& a, int64_t limit, const char* name) {
  for (size_t i = 0; i < a.size(); ++i)
    if (a.data()[i] < 0 || a.data()[i] >= limit)
      throw nb::index_error((std::string(name) + " holds " + std::to_string(a.data()[i]) +
                             ", allowed: 0 to " + std::to_string(limit - 1))
                                .c_str());
}
template <class A>
auto pointer(const std::optional<A>& a) { return a ? a->data() : nullptr; }

}  // namespace qwick
