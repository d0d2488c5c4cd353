package composefile

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// replaced are the keys of a volume that an external volume must not have.
var replaced = []string{"driver", "driver_opts", "labels", "<<"}

// redefine gives the volume of a change its new name, in the form of an external volume. It reports whether the
// document defines the volume.
func (d *document) redefine(c Change) (bool, error) {
	_, volumes := child(d.root, "volumes")
	if volumes == nil {
		return false, nil
	}
	key, val := child(value(volumes), c.Key)
	if key == nil {
		return false, nil
	}
	whole := "{name: " + quoted(c.Name) + ", external: true}"
	note := c.Key + " becomes the external volume " + c.Name
	at, err := d.offset(val)
	switch {
	case isEmpty(val) && value(volumes).Style&yaml.FlowStyle != 0:
		return true, d.insertBehindKey(key, whole, note)
	case isEmpty(val):
		return true, d.insertLines(key.Line, note, external(key.Column-1+d.step(value(volumes)), c.Name)...)
	case err != nil:
		return true, err
	case val.Kind == yaml.AliasNode && d.text[at] == '*':
		return true, d.replace(val.Line, replacement{at, at + 1 + len(val.Value), whole, note})
	case val.Kind == yaml.ScalarNode && val.Tag == "!!null":
		return true, d.replace(val.Line, replacement{at, at + len(val.Value), whole, note})
	case val.Kind != yaml.MappingNode:
		return true, d.errorAt(val.Line, "the definition of volume %s cannot be edited", c.Key)
	case val.Style&yaml.FlowStyle != 0:
		return true, d.redefineFlow(val, at, whole, note)
	}
	return true, d.redefineBlock(key, val, c, note)
}

// external returns the lines of an external volume.
func external(indent int, name string) []string {
	pad := strings.Repeat(" ", indent)
	return []string{pad + "name: " + quoted(name), pad + "external: true"}
}

// insertBehindKey gives a value to a key inside of brackets that has none.
func (d *document) insertBehindKey(key *yaml.Node, with, note string) error {
	s, err := d.scalar(key)
	if err != nil {
		return err
	}
	if s.to < len(d.text) && d.text[s.to] == ':' {
		return d.replace(key.Line, replacement{s.to + 1, s.to + 1, " " + with, note})
	}
	return d.replace(key.Line, replacement{s.to, s.to, ": " + with, note})
}

// redefineFlow replaces a definition in brackets.
func (d *document) redefineFlow(val *yaml.Node, at int, whole, note string) error {
	for _, p := range pairs(val) {
		if !slices.Contains(replaced, p.key.Value) && p.key.Value != "name" && p.key.Value != "external" {
			return d.errorAt(p.key.Line, "the key %s would be lost (remove it first)", p.key.Value)
		}
	}
	end, err := d.flowEnd(val.Line, at)
	if err != nil {
		return err
	}
	return d.replace(val.Line, replacement{at, end, whole, note})
}

// redefineBlock changes a definition of several lines. If the definition has the keys name and external, it changes
// their values. Otherwise it adds lines with them. It keeps all other keys that Compose permits for an external volume.
func (d *document) redefineBlock(key, val *yaml.Node, c Change, note string) error {
	lines := external(val.Content[0].Column-1, c.Name)
	for _, p := range pairs(val) {
		var err error
		switch {
		case p.key.Value == "name":
			lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, " name: ") })
			err = d.set(p.value, c.Name)
		case p.key.Value == "external" && p.value.Kind == yaml.ScalarNode:
			lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasSuffix(l, " external: true") })
			err = d.set(p.value, "true")
		case p.key.Value == "external":
			err = d.errorAt(p.key.Line, "the old form of external cannot be edited (write external: true, and name)")
		case slices.Contains(replaced, p.key.Value):
			err = d.removeLines(p.key, p.value)
		}
		if err != nil {
			return err
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return d.insertLines(key.Line, note, lines...)
}

// define adds the volume of a change below volumes.
func (d *document) define(c Change) error {
	if d.added[c.Key] {
		return nil
	}
	d.added[c.Key] = true
	key, volumes := child(d.root, "volumes")
	note := "the external volume " + c.Name + " is added as " + c.Key
	flow := c.Key + ": {name: " + quoted(c.Name) + ", external: true}"
	block := func(indent, step int) []string {
		return append([]string{strings.Repeat(" ", indent) + c.Key + ":"}, external(indent+step, c.Name)...)
	}
	switch {
	case d.root.Style&yaml.FlowStyle != 0 || volumes != nil && volumes.Kind == yaml.AliasNode:
		return d.errorAt(d.root.Line, "a volume cannot be added to this notation (write services and volumes as "+
			"blocks)")
	case volumes == nil:
		return d.appendVolumes(note, block(d.step(d.root), d.step(d.root)))
	case isEmpty(volumes):
		step := d.step(d.root)
		return d.insertLines(key.Line, note, block(step, step)...)
	case volumes.Kind != yaml.MappingNode:
		return d.errorAt(volumes.Line, "a volume cannot be added: volumes is not a mapping")
	case volumes.Style&yaml.FlowStyle != 0:
		at, err := d.offset(volumes)
		if err != nil {
			return err
		}
		if len(volumes.Content) > 0 {
			flow += ", "
		}
		return d.replace(volumes.Line, replacement{at + 1, at + 1, flow, note})
	}
	all := pairs(volumes)
	last := all[len(all)-1]
	return d.insertLines(d.lastLine(last.key, last.value), note, block(last.key.Column-1, d.step(volumes))...)
}

// appendVolumes adds the key volumes at the end of the file. Further volumes follow it.
func (d *document) appendVolumes(note string, lines []string) error {
	for _, r := range d.edits {
		if r.from == len(d.text) && strings.Contains(r.with, d.newline+"volumes:"+d.newline) {
			return d.insertLines(len(d.begins), note, lines...)
		}
	}
	if last := strings.TrimSpace(d.line(len(d.begins))); last == "..." || strings.HasSuffix(string(d.text), "\n...\n") {
		return d.errorAt(len(d.begins), "volumes cannot be added behind the end of the document (remove the dots)")
	}
	return d.insertLines(len(d.begins), note, append([]string{"", "volumes:"}, lines...)...)
}

// step returns the indentation of the values of a mapping relative to its keys, in spaces. The default is 2.
func (d *document) step(mapping *yaml.Node) int {
	for _, p := range pairs(mapping) {
		if p.value.Kind == yaml.MappingNode && p.value.Style&yaml.FlowStyle == 0 && len(p.value.Content) > 0 {
			if n := p.value.Content[0].Column - p.key.Column; n > 0 {
				return n
			}
		}
	}
	if mapping != d.root {
		return d.step(d.root)
	}
	return 2
}
