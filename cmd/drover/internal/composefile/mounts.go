package composefile

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mountEditor turns the mounts of a directory into mounts of a volume, wherever a service of a document gets them from:
// its own list, a merged mapping, or an alias of a list or of an entry.
type mountEditor struct {
	doc     *document
	change  Change
	resolve Resolve
	found   bool
	seen    map[*yaml.Node]bool
}

// services edits the mounts of all services.
func (m *mountEditor) services() error {
	m.seen = map[*yaml.Node]bool{}
	_, services := child(m.doc.root, "services")
	for _, p := range pairs(value(services)) {
		if err := m.mapping(p.value); err != nil {
			return err
		}
	}
	return nil
}

// mapping edits the mounts of a service, or of a mapping that is merged into it.
func (m *mountEditor) mapping(n *yaml.Node) error {
	n = value(n)
	if n == nil || m.seen[n] {
		return nil
	}
	m.seen[n] = true
	for _, p := range pairs(n) {
		var err error
		switch p.key.Value {
		case "<<":
			err = m.merged(p.value)
		case "volumes":
			err = m.list(p.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// merged edits the mounts of one or several mappings that are merged.
func (m *mountEditor) merged(n *yaml.Node) error {
	if n = value(n); n.Kind != yaml.SequenceNode {
		return m.mapping(n)
	}
	for _, item := range n.Content {
		if err := m.mapping(item); err != nil {
			return err
		}
	}
	return nil
}

func (m *mountEditor) list(n *yaml.Node) error {
	n = value(n)
	if n.Kind != yaml.SequenceNode {
		return nil
	}
	for _, item := range n.Content {
		if item = value(item); !m.seen[item] {
			m.seen[item] = true
			if err := m.entry(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry edits one mount if its source is the directory.
func (m *mountEditor) entry(n *yaml.Node) error {
	switch n.Kind {
	case yaml.ScalarNode:
		return m.short(n)
	case yaml.MappingNode:
		return m.long(n)
	}
	return nil
}

// short edits a mount in the short syntax, SOURCE:TARGET[:MODE].
func (m *mountEditor) short(n *yaml.Node) error {
	source, _, mode := SplitShort(n.Value)
	if source == "" || m.resolve(source, false) != m.change.Dir {
		return nil
	}
	for o := range strings.SplitSeq(mode, ",") {
		if isPropagation(o) {
			return m.doc.errorAt(n.Line, "a volume has no propagation (remove %q, or leave the mount out with "+
				"--skip)", o)
		}
	}
	s, err := m.doc.scalar(n)
	if err != nil {
		return err
	}
	m.found = true
	key, last := m.change.Key, ""
	if m.change.NoCopy {
		if key, last, err = m.noCopy(n, s, mode); err != nil {
			return err
		}
	}
	note := source + " becomes " + m.change.Key
	err = m.doc.replace(n.Line, replacement{s.contentFrom, s.contentFrom + len(source), key, note})
	if err != nil || last == "" {
		return err
	}
	return m.doc.replace(n.Line, replacement{s.contentTo, s.contentTo, last,
		"nocopy keeps " + m.change.Key + " as empty as " + source + " is"})
}

// noCopy returns the texts that replace the source of a mount, and that follow its last character, for the option
// nocopy. A comma ends a plain value inside of brackets, so the value gets quotes then.
func (m *mountEditor) noCopy(n *yaml.Node, s scalar, mode string) (key, last string, err error) {
	switch {
	case mode == "":
		return m.change.Key, ":nocopy", nil
	case s.quote != 0:
		return m.change.Key, ",nocopy", nil
	case strings.Contains(n.Value, "'"):
		return "", "", m.doc.errorAt(n.Line, "the directory is empty, and nocopy cannot be added to a value with a "+
			"single quote (put a file into the directory, or leave the mount out with --skip)")
	}
	return "'" + m.change.Key, ",nocopy'", nil
}

func isPropagation(option string) bool {
	return slices.Contains([]string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}, option)
}

// long edits a mount in the long syntax, a mapping.
func (m *mountEditor) long(n *yaml.Node) error {
	_, kind := child(n, "type")
	_, source := child(n, "source")
	if m.isMergedMount(n, kind, source) {
		return m.doc.errorAt(n.Line, "a mount with merged keys cannot be edited (write type and source into it)")
	}
	kind, source = value(kind), value(source)
	if kind == nil || source == nil || kind.Value != "bind" || m.resolve(source.Value, true) != m.change.Dir {
		return nil
	}
	if m.change.NoCopy {
		return m.doc.errorAt(n.Line, "%s is empty, and the engine would fill an empty volume with files of the image "+
			"(write the mount as SOURCE:TARGET, put a file into the directory, or leave the mount out with --skip)",
			source.Value)
	}
	m.found = true
	for _, err := range []error{m.doc.set(kind, "volume"), m.doc.set(source, m.change.Key), m.removeBind(n)} {
		if err != nil {
			return err
		}
	}
	return nil
}

// isMergedMount reports whether a mount of the directory gets its type or its source from a merged mapping.
func (m *mountEditor) isMergedMount(n, kind, source *yaml.Node) bool {
	_, merged := child(n, "<<")
	if merged == nil || kind != nil && source != nil {
		return false
	}
	if source == nil {
		_, source = child(value(merged), "source")
	}
	return source != nil && m.resolve(value(source).Value, true) == m.change.Dir
}

// removeBind removes the options of a bind mount that a volume does not have and does not need.
func (m *mountEditor) removeBind(n *yaml.Node) error {
	key, bind := child(n, "bind")
	if key == nil {
		return nil
	}
	for _, p := range pairs(value(bind)) {
		if p.key.Value != "create_host_path" && p.key.Value != "selinux" {
			return m.doc.errorAt(p.key.Line, "a volume has no option %s (remove it, or leave the mount out with "+
				"--skip)",
				p.key.Value)
		}
	}
	if n.Style&yaml.FlowStyle != 0 {
		return m.doc.errorAt(key.Line, "bind cannot be removed inside of brackets (remove it, or write the mount in "+
			"several lines)")
	}
	return m.doc.removeLines(key, bind)
}

// SplitShort splits a mount in the short syntax at its colons, except those inside of ${…}. For an anonymous volume,
// which has only a target, the source is empty.
func SplitShort(text string) (source, target, mode string) {
	var parts []string
	depth, from := 0, 0
	for i := 0; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], "${"):
			depth++
			i++
		case text[i] == '}' && depth > 0:
			depth--
		case text[i] == ':' && depth == 0:
			parts = append(parts, text[from:i])
			from = i + 1
		}
	}
	parts = append(parts, text[from:])
	switch len(parts) {
	case 1:
		return "", parts[0], ""
	case 2:
		return parts[0], parts[1], ""
	}
	return parts[0], parts[1], strings.Join(parts[2:], ":")
}
