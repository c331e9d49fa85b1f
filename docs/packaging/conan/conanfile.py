"""Conan 2 recipe: conan create docs/packaging/conan --build=missing"""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout

required_conan_version = ">=2.0"


class RingAttentionRecipe(ConanFile):
    name = "ring_attention"
    description = "Header-only C++20 library for ring dilated attention"
    license = "MIT"
    topics = ("attention", "long-sequences", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    @property
    def _source_tree(self):
        return os.path.join(self.recipe_folder, "..", "..", "..")

    def set_version(self):
        # version.hpp is the one place that states the version.
        header = load(self, os.path.join(self._source_tree, "include", "ring_attention", "version.hpp"))
        numbers = re.findall(r"^#define RING_ATTENTION_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", header, re.MULTILINE)
        self.version = ".".join(numbers)

    def export_sources(self):
        copy(self, "include/*", src=self._source_tree, dst=self.export_sources_folder)
        copy(self, "LICENSE", src=self._source_tree, dst=self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def requirements(self):
        self.requires("eigen/[>=3.4.0 <6]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def package(self):
        for pattern in ("*.hpp", "*.inl"):
            copy(self, pattern, src=os.path.join(self.source_folder, "include"),
                 dst=os.path.join(self.package_folder, "include"))
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "ring_attention")
        # Before 1.0 a new minor version may change the interface.
        self.cpp_info.set_property("cmake_config_version_compat", "SameMinorVersion")
        self.cpp_info.set_property("cmake_target_name", "ring_attention::ring_attention")
        self.cpp_info.set_property("pkg_config_name", "ring_attention")
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        if self.settings.os in ("Linux", "FreeBSD"):
            self.cpp_info.system_libs = ["pthread"]
        if self.settings.os == "Linux":
            # A program shares its pattern cache with the libraries that it loads by this symbol.
            major, minor = str(self.version).split(".")[:2]
            symbol = f"ring_attention_v{major}_{minor}_global_pattern_cache"
            self.cpp_info.exelinkflags = [f"-Wl,--export-dynamic-symbol={symbol}"]
