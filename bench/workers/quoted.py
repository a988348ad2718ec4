"""The text of the drafts test: a program to be given back with one small change. Nothing else."""

from __future__ import annotations

MOST = 320  # tokens of the answer

PROMPT = '''Rename the function `merge` to `merge_sorted` and give the whole program back:

```python
"""Sorting a list in pieces, and merging the pieces."""

import random


def merge(left, right):
    """Return the sorted list of all items of two sorted lists."""
    result = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            result.append(left[i])
            i += 1
        else:
            result.append(right[j])
            j += 1
    result.extend(left[i:])
    result.extend(right[j:])
    return result


def merge_sort(items):
    """Return the items as a sorted list."""
    if len(items) < 2:
        return list(items)
    middle = len(items) // 2
    return merge(merge_sort(items[:middle]), merge_sort(items[middle:]))


def main():
    """Sort random numbers and compare with the built-in function."""
    for size in (0, 1, 2, 10, 1000):
        numbers = [random.randrange(100) for _ in range(size)]
        assert merge_sort(numbers) == sorted(numbers)
        print("sorted", size, "numbers")


if __name__ == "__main__":
    main()
```
'''
