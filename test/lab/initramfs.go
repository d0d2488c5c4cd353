package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// early lists the modules that the guest needs before it can mount its root.
var early = []string{"crc32c_generic", "crc32c_intel", "virtio_pci", "virtio_blk", "ext4"}

// initramfs returns a cpio archive (newc) with the guest's program and the early modules, in the order in which
// they must be loaded.
func initramfs(program, modules string) ([]byte, error) {
	load, err := loadOrder(modules, early)
	if err != nil {
		return nil, err
	}
	var a archive
	for _, dir := range []string{"dev", "proc", "sys", "root", "modules"} {
		a.add(dir, 0o040755, nil)
	}
	for i, m := range load {
		b, err := os.ReadFile(filepath.Join(modules, m))
		if err != nil {
			return nil, err
		}
		a.add(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(m)), 0o100644, b)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	a.add("init", 0o100755, b)
	a.add("TRAILER!!!", 0, nil)
	return a.Bytes(), nil
}

type archive struct {
	bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode int, content []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// loadOrder lists the files of modules, each after its dependencies.
func loadOrder(modules string, names []string) ([]string, error) {
	f, err := os.Open(filepath.Join(modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files, needs := map[string]string{}, map[string][]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		file, rest, _ := strings.Cut(lines.Text(), ":")
		files[moduleName(file)], needs[file] = file, strings.Fields(rest)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	var order []string
	for _, n := range names {
		file, ok := files[n]
		if !ok {
			return nil, fmt.Errorf("the lab's kernel has no module %s", n)
		}
		// modules.dep lists direct and indirect dependencies. Those that must be loaded first come last.
		for _, m := range slices.Backward(append([]string{file}, needs[file]...)) {
			if !slices.Contains(order, m) {
				order = append(order, m)
			}
		}
	}
	return order, nil
}

func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}
