package profiles

import (
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// mountOptions returns the mount options of a filesystem that an operator may choose: those that change speed, access
// times, or which programs on the volume can be executed. It does not return options that can lose data (nobarrier,
// data=writeback, a commit of more than 30 s), options that Drover sets itself (ro, nouuid, norecovery), or options
// that need other settings too (quotas, an external log). See xfs(5), ext4(5) and mount(8).
func mountOptions(fstype string) []string {
	options := []string{"noatime", "relatime", "nodiratime", "lazytime", "nosuid", "nodev", "noexec", "discard",
		"nodiscard"}
	switch fstype {
	case "xfs":
		options = append(options, "largeio", "swalloc", "logbsize=32k", "logbsize=64k", "logbsize=128k",
			"logbsize=256k")
	case "ext4":
		options = append(options, "commit=1", "commit=5", "commit=15", "commit=30", "delalloc", "nodelalloc")
	}
	return options
}

// subject returns the name of the setting that a mount option changes. If two options change the same setting, the
// kernel uses the last one, which may not be what the operator meant.
func subject(option string) string {
	switch option {
	case "relatime":
		return "noatime"
	case "nodiscard", "nodelalloc":
		return strings.TrimPrefix(option, "no")
	}
	key, _, _ := strings.Cut(option, "=")
	return key
}

func filesystem(n strictyaml.Node, fs *dataset.Filesystem) error {
	keys, err := n.Keys([]string{"type", "mount"}, nil)
	if err != nil {
		return err
	}
	if fs.Type, err = keys["type"].String(); err != nil {
		return err
	}
	if _, ok := keys["type"]; ok && fs.Type != "xfs" && fs.Type != "ext4" {
		return keys["type"].Errorf("unknown filesystem %q (available: ext4, xfs)", dataset.Clip(fs.Type))
	}
	items, err := keys["mount"].Items()
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	optionBySubject := map[string]string{}
	for _, item := range items {
		o, err := mountOption(item, fs.Type)
		if !bad.Add(err) {
			continue
		}
		if other, ok := optionBySubject[subject(o)]; ok {
			bad.Add(item.Errorf("mount options %s and %s exclude each other", other, o))
			continue
		}
		optionBySubject[subject(o)] = o
		fs.Mount = append(fs.Mount, o)
	}
	return bad.Err()
}

func mountOption(n strictyaml.Node, fstype string) (string, error) {
	o, err := n.String()
	if err != nil {
		return "", err
	}
	allowed := mountOptions(fstype)
	if slices.Contains(allowed, o) {
		return o, nil
	}
	hint := ""
	if fstype == "" {
		hint = "; more with a type of ext4 or xfs"
	}
	return "",
		n.Errorf("mount option %q is not supported (available: %s%s)", dataset.Clip(o), dataset.FormatChoices(allowed),
			hint)
}
