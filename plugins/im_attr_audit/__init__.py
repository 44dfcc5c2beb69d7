"""im-attr-audit: the missing history of Tencent Cloud Chat's user-attribute names."""
