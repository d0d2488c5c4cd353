package iolimit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	maxFile      = "io.max"
	v2Controller = "io"
	v2Memory     = "memory"
	noLimit      = "max"
)

func v2Keys(l *Limits) map[string]*int64 {
	return map[string]*int64{"rbps": &l.ReadBPS, "wbps": &l.WriteBPS, "riops": &l.ReadIOPS, "wiops": &l.WriteIOPS}
}

func setV2(dir string, d Device, l Limits) error {
	rule := d.String()
	keys := v2Keys(&l)
	for _, key := range []string{"rbps", "wbps", "riops", "wiops"} {
		value := noLimit
		if n := *keys[key]; n > 0 {
			value = strconv.FormatInt(n, 10)
		}
		rule += " " + key + "=" + value
	}
	return write(filepath.Join(dir, maxFile), rule)
}

func readV2(dir string, rules map[Device]Limits) error {
	b, err := os.ReadFile(filepath.Join(dir, maxFile))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		d, ok := parseDevice(w[0])
		if !ok {
			continue
		}
		var l Limits
		keys := v2Keys(&l)
		for _, pair := range w[1:] {
			key, value, _ := strings.Cut(pair, "=")
			into := keys[key]
			if into == nil || value == noLimit {
				continue
			}
			if *into, err = strconv.ParseInt(value, 10, 64); err != nil {
				return fmt.Errorf("%s: %w", maxFile, err)
			}
		}
		rules[d] = l
	}
	return nil
}

// Enable creates a group of version 2 if needed, and enables the controller for it in all of its parents. Without that,
// the group cannot have limits. It does not create slices, which belong to systemd: if one does not exist, Enable fails
// with fs.ErrNotExist.
func (h Hierarchy) Enable(group string) error {
	if h.Version != V2 || h.Has(group) {
		return nil
	}
	at := h.Dir
	for part := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		control := filepath.Join(at, "cgroup.subtree_control")
		b, err := os.ReadFile(control)
		if err == nil && !slices.Contains(strings.Fields(string(b)), v2Controller) {
			err = write(control, "+"+v2Controller)
		}
		if err != nil {
			return fmt.Errorf("delegate the controller io to control group %s: %w", group, err)
		}
		at = filepath.Join(at, part)
		if strings.HasSuffix(part, ".slice") {
			continue
		}
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create control group %s: %w", group, err)
		}
	}
	if !h.Has(group) {
		return fmt.Errorf("control group %s: %w", group, fs.ErrNotExist)
	}
	return nil
}
