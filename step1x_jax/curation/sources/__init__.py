"""Where photographs are from: folders, tables, archives, videos, packages."""
