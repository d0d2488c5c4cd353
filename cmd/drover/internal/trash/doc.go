// Package trash has the commands of drover trash.
package trash
