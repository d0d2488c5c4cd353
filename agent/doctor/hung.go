package doctor

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// slowAfter is how long work on one dataset takes before doctor reports it. poolPatience is how long doctor waits
// for one pool.
const (
	slowAfter    = 5 * time.Second
	poolPatience = 10 * time.Second
)

// threadsInKernel returns which threads of this process, and which commands that it runs, wait in the kernel and cannot
// be interrupted now: proc_pid_stat(5). Those that have ended meanwhile do not count.
func threadsInKernel() (list []string) {
	threads := 0
	own, _ := filepath.Glob("/proc/self/task/*/stat")
	for _, file := range own {
		if s, ok := readStat(file); ok && s.state == "D" {
			threads++
		}
	}
	if threads > 0 {
		list = append(list, fmt.Sprintf("%d of drover's threads wait", threads))
	}
	others, _ := filepath.Glob("/proc/[0-9]*/stat")
	slices.SortFunc(others, func(x, y string) int { return cmp.Compare(len(x), len(y)) })
	for _, file := range others {
		if s, ok := readStat(file); ok && s.state == "D" && s.parent == os.Getpid() {
			list = append(list, fmt.Sprintf("%s (process %s) waits", s.name, filepath.Base(filepath.Dir(file))))
		}
	}
	return list
}

type procStat struct {
	name, state string
	parent      int
}

// readStat reads a stat file. The name in it can contain any character.
func readStat(file string) (s procStat, ok bool) {
	b, err := os.ReadFile(file)
	begin, end := strings.IndexByte(string(b), '('), strings.LastIndexByte(string(b), ')')
	if err != nil || begin < 0 || end < begin {
		return s, false
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 2 {
		return s, false
	}
	s.name, s.state = string(b[begin+1:end]), fields[0]
	s.parent, err = strconv.Atoi(fields[1])
	return s, err == nil
}
