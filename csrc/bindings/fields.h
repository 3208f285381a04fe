// A plain struct of api.h as a Python class: made from keyword arguments, one typed attribute a field.
#pragma once
#include <pybind11/pybind11.h>

#include <array>
#include <string>
#include <type_traits>
#include <vector>

namespace fastreg {

template <class Member>
struct MemberOf;
template <class Struct, class T>
struct MemberOf<T Struct::*> {
  using Type = T;
};

// How a field is seen from Python: an address is an int (0 for null), sizes are a tuple, everything else is itself.
template <class T>
struct Seen {
  static_assert(!std::is_pointer_v<T> && !std::is_array_v<T>);
  static pybind11::object from(const T& value) { return pybind11::cast(value); }
  static void write(T& field, pybind11::handle value) { field = value.cast<T>(); }
};
template <class T>
struct Seen<T*> {
  static pybind11::object from(T* address) { return pybind11::int_(reinterpret_cast<uintptr_t>(address)); }
  static void write(T*& field, pybind11::handle value) { field = reinterpret_cast<T*>(value.cast<uintptr_t>()); }
};
template <class T, size_t n>
struct Seen<T[n]> {
  static pybind11::object from(const T (&sizes)[n]) {
    pybind11::tuple seen(n);
    for (size_t k = 0; k < n; ++k) seen[k] = sizes[k];
    return seen;
  }
  static void write(T (&sizes)[n], pybind11::handle value) {
    if (!PyTuple_Check(value.ptr()) || PyTuple_GET_SIZE(value.ptr()) != n) throw pybind11::cast_error();
    for (size_t k = 0; k < n; ++k) sizes[k] = pybind11::handle(PyTuple_GET_ITEM(value.ptr(), k)).cast<T>();
  }
};

template <class Struct>
class Fields {
 public:
  Fields(pybind11::module_ module, const char* name) : name_(name), class_(module, name) {}

  // `needed`: whoever makes the struct must give it. What may be left out is zero, false or null.
  template <auto member>
  Fields& needed(const char* name) {
    return add<member>(name, true);
  }
  template <auto member>
  Fields& optional(const char* name) {
    return add<member>(name, false);
  }

  // The constructor, once every field is named.
  void done() {
    pybind11::list needed_names;
    for (const Field& field : fields_)
      if (field.needed) needed_names.append(pybind11::handle(field.name));
    class_.attr("needed") = pybind11::tuple(needed_names);
    class_.def(pybind11::init([fields = fields_, name = name_](const pybind11::kwargs& given) {
      Struct made{};
      size_t at = 0, needed = 0;
      for (const auto& [key, value] : given) {
        at = find(fields, key, at, name);
        write(fields[at], made, value, name);
        needed += fields[at].needed;
        ++at;
      }
      check_needed(fields, given, needed, name);
      return made;
    }));
  }

 private:
  struct Field {
    PyObject* name;  // interned: a keyword is found by its address
    void (*write)(Struct&, pybind11::handle);
    bool needed;
  };

  template <auto member>
  Fields& add(const char* name, bool needed) {
    using T = typename MemberOf<decltype(member)>::Type;
    const Field field{PyUnicode_InternFromString(name),
                      [](Struct& to, pybind11::handle value) { Seen<T>::write(to.*member, value); }, needed};
    fields_.push_back(field);
    class_.def_property(
        name, [](const Struct& from) { return Seen<T>::from(from.*member); },
        [field, owner = name_](Struct& to, pybind11::handle value) { write(field, to, value, owner); });
    return *this;
  }

  static void write(const Field& field, Struct& to, pybind11::handle value, const char* owner) {
    try {
      field.write(to, value);
    } catch (const pybind11::cast_error&) {
      throw pybind11::type_error(std::string(owner) + "." + text(field.name) + " cannot be " +
                                 text(pybind11::repr(value)));
    }
  }

  // Keywords mostly come in the order of the fields: the search begins behind the last one.
  static size_t find(const std::vector<Field>& fields, pybind11::handle key, size_t begin, const char* owner) {
    for (size_t step = 0; step < fields.size(); ++step) {
      const size_t at = (begin + step) % fields.size();
      if (fields[at].name == key.ptr()) return at;
    }
    for (size_t at = 0; at < fields.size(); ++at)  // a name made at run time is not interned
      if (PyUnicode_Compare(fields[at].name, key.ptr()) == 0) return at;
    throw pybind11::type_error(std::string(owner) + " has no field " + text(key));
  }

  static void check_needed(const std::vector<Field>& fields, const pybind11::kwargs& given, size_t count,
                           const char* owner) {
    for (const Field& field : fields) count -= field.needed;
    if (count == 0) return;
    for (const Field& field : fields)
      if (field.needed && !given.contains(pybind11::handle(field.name)))
        throw pybind11::type_error(std::string(owner) + " needs " + text(field.name));
  }

  static std::string text(pybind11::handle value) { return pybind11::str(value); }

  const char* name_;
  pybind11::class_<Struct> class_;
  std::vector<Field> fields_;
};

}  // namespace fastreg
