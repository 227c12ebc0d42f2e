// Lets Enzyme's library, which was built for Python 3.11, load in Python 3.13.
//
// The library uses one function that 3.13 no longer has, _PyObject_LookupAttr. What replaced it has
// another name and the same arguments and meaning. The worker loads this with RTLD_GLOBAL before
// the library, so that the library's reference finds it. The module has nothing to import.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

Py_EXPORTED_SYMBOL int _PyObject_LookupAttr(PyObject *object, PyObject *name, PyObject **result) {
  return PyObject_GetOptionalAttr(object, name, result);
}
