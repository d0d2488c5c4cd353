package scratch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Fill fills the filesystem of dir to the last block, with the file "ballast" in dir.
func Fill(tb testing.TB, dir string) {
	tb.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; size /= 2 {
		for buf := make([]byte, size); err == nil; {
			if _, err = f.Write(buf); err == nil && size < 1<<20 {
				err = f.Sync()
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			tb.Fatal(err)
		}
		err = nil
	}
}
