package iolimit

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const v1Controller = "blkio"

// v1File is a file of a group with one kind of limit, one device on each line.
type v1File struct {
	name string
	of   func(*Limits) *int64
}

func v1Files() []v1File {
	return []v1File{
		{"blkio.throttle.write_bps_device", func(l *Limits) *int64 { return &l.WriteBPS }},
		{"blkio.throttle.read_bps_device", func(l *Limits) *int64 { return &l.ReadBPS }},
		{"blkio.throttle.write_iops_device", func(l *Limits) *int64 { return &l.WriteIOPS }},
		{"blkio.throttle.read_iops_device", func(l *Limits) *int64 { return &l.ReadIOPS }},
	}
}

func setV1(dir string, d Device, l Limits) error {
	for _, f := range v1Files() {
		if err := write(filepath.Join(dir, f.name), fmt.Sprintf("%s %d", d, *f.of(&l))); err != nil {
			return err
		}
	}
	return nil
}

func readV1(dir string, rules map[Device]Limits) error {
	for _, f := range v1Files() {
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			w := strings.Fields(line)
			if len(w) != 2 {
				continue
			}
			d, ok := parseDevice(w[0])
			if !ok {
				continue
			}
			l := rules[d]
			if *f.of(&l), err = strconv.ParseInt(w[1], 10, 64); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			rules[d] = l
		}
	}
	return nil
}
