"""How fast the library is, beside rooflines measured in the same run and beside other libraries. See README.md."""
