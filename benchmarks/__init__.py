"""Speed of the library, compared with rooflines measured in the same run and with other libraries. See README.md."""
